"""All that comes after the encoder, in one module as smp's users expect it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mtaclip_plugin.decoder.casts import with_weights_cast
from mtaclip_plugin.decoder.heads import TokenPrediction
from mtaclip_plugin.decoder.mask_text_decoder import MaskTextDecoder
from mtaclip_plugin.decoder.memory import Recomputation, has_to_spare
from mtaclip_plugin.decoder.pixel_decoder import PixelDecoder
from mtaclip_plugin.decoder.pixel_text import PixelAlignmentHead
from mtaclip_plugin.decoder.recompute import Recompute, recomputing
from mtaclip_plugin.encoders import StridePyramid
from mtaclip_plugin.structures import MaskPrediction


@dataclass(frozen=True, eq=False)
class DecoderOutput:
    """What the decoder makes of an image.

    Attributes:
        predictions: those of the tokens, in order.
        mask_features: (B, D, h, w).
        pixel_logits: (B, K, h, w); ``None`` where pixels are not compared with text.
    """

    predictions: list[TokenPrediction]
    mask_features: Tensor
    pixel_logits: Tensor | None

    def to_prediction(self, image_size: tuple[int, int], padded_size: tuple[int, int]) -> MaskPrediction:
        """The last prediction of the tokens with the mask features, and those before it.

        Args:
            image_size: (H, W) of the image as it was given.
            padded_size: (H', W') after padding right and bottom.
        """
        *auxiliary, last = (
            MaskPrediction(
                class_logits=tokens.class_logits,
                mask_embed=tokens.mask_embed,
                mask_features=self.mask_features,
                text_logits=tokens.text_logits,
                image_size=image_size,
                padded_size=padded_size,
                text_mask_embed=tokens.text_mask_embed,
            )
            for tokens in self.predictions
        )
        return replace(last, auxiliary=tuple(auxiliary), pixel_logits=self.pixel_logits)


class MTACLIPDecoder(nn.Module):
    """Stride pyramid, pixel decoder, mask-text decoder, one after the other.

    Args:
        pyramid: makes maps at strides 4 to 32 of an encoder's maps.
        pixel_decoder: makes mask features and memories of them.
        mask_text_decoder: makes predictions of those and of text.
        pixel_head: compares mask features with text; ``None`` for not.
        recompute: whether large tensors are made again in the backward pass; ``"auto"`` for not where a GPU has the
            memory to keep them.
    """

    def __init__(
        self,
        pyramid: StridePyramid,
        pixel_decoder: PixelDecoder,
        mask_text_decoder: MaskTextDecoder,
        pixel_head: PixelAlignmentHead | None = None,
        *,
        recompute: Recompute = "auto",
    ) -> None:
        super().__init__()
        self.pyramid = pyramid
        # Peft takes modules by the end of their names: "decoder" is to mean this one, and not those in it as well.
        self.pixels = pixel_decoder
        self.tokens = mask_text_decoder
        self.pixel_head = pixel_head
        self.recompute = recompute
        self._recomputation = Recomputation.of(pixel_decoder, mask_text_decoder)

    @property
    def pixel_decoder(self) -> PixelDecoder:
        """What makes mask features and memories; among the modules and weights it is ``pixels``."""
        return self.pixels

    @property
    def mask_text_decoder(self) -> MaskTextDecoder:
        """What makes predictions of them and of text; among the modules and weights it is ``tokens``."""
        return self.tokens

    def forward(self, pyramid: Sequence[Tensor], text: Tensor | None, *, auxiliary: bool) -> DecoderOutput:
        """Decodes what ``self.pyramid`` made; the caller, who holds the encoder's maps, calls that one.

        Args:
            pyramid: four maps (B, C_i, h_i, w_i) at strides 4, 8, 16 and 32.
            text: (P, K+1, T) text embeddings; ``None`` without text.
            auxiliary: whether to predict at every layer.
        """
        with self._recomputing(pyramid, text):
            features = with_weights_cast(self.pixels, pyramid)
            predictions = with_weights_cast(self.tokens, features, text, auxiliary=auxiliary)
        pixel_logits = None
        if self.pixel_head is not None and text is not None:
            pixel_logits = self.pixel_head(features.mask_features, text)
        return DecoderOutput(predictions, features.mask_features, pixel_logits)

    def _recomputing(self, pyramid: Sequence[Tensor], text: Tensor | None) -> AbstractContextManager[None]:
        """In which what is large is kept or made again; a compiler weighs that of its own accord."""
        if torch.compiler.is_compiling():
            return nullcontext()
        if self.recompute != "auto":
            return recomputing(self.recompute)
        return recomputing(not has_to_spare(pyramid[0].device, self._recomputation.size(pyramid, text)))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        renamed = present_names(state_dict, prefix)
        state_dict.clear()  # torch gives a copy, and passes it on to the modules in this one
        state_dict.update(renamed)
        super()._load_from_state_dict(state_dict, prefix, *args)


def present_names(state_dict: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The weights under the names that they have today.

    Args:
        state_dict: of a decoder, or of what holds one.
        prefix: what the names of the decoder's weights begin with.
    """
    former = {f"{prefix}pixel_decoder.": f"{prefix}pixels.", f"{prefix}mask_text_decoder.": f"{prefix}tokens."}
    renamed = {}
    for name, value in state_dict.items():
        start = next((old for old in former if name.startswith(old)), "")
        renamed[former.get(start, "") + name.removeprefix(start)] = value
    return renamed
