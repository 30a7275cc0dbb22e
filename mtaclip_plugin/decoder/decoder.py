"""All that comes after the encoder, in one module as smp's users expect it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtaclip_plugin.decoder.heads import TokenPrediction
from mtaclip_plugin.decoder.mask_text_decoder import MaskTextDecoder
from mtaclip_plugin.decoder.pixel_decoder import PixelDecoder
from mtaclip_plugin.encoders import StridePyramid


class MTACLIPDecoder(nn.Module):
    """Stride pyramid, pixel decoder, mask-text decoder, one after the other.

    Args:
        pyramid: makes maps at strides 4 to 32 of an encoder's maps.
        pixel_decoder: makes mask features and memories of them.
        mask_text_decoder: makes predictions of those and of text.
    """

    def __init__(
        self,
        pyramid: StridePyramid,
        pixel_decoder: PixelDecoder,
        mask_text_decoder: MaskTextDecoder,
    ) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.pixel_decoder = pixel_decoder
        self.mask_text_decoder = mask_text_decoder

    def forward(
        self, pyramid: Sequence[Tensor], text: Tensor | None, *, auxiliary: bool
    ) -> tuple[list[TokenPrediction], Tensor]:
        """Decodes what ``self.pyramid`` made; the caller, who holds the encoder's maps, calls that one.

        Args:
            pyramid: four maps (B, C_i, h_i, w_i) at strides 4, 8, 16 and 32.
            text: (P, K+1, T) text embeddings; ``None`` without text.
            auxiliary: whether to predict at every layer.

        Returns:
            The predictions in order, and the mask features (B, D, h, w).
        """
        pixel_features = self.pixel_decoder(pyramid)
        predictions = self.mask_text_decoder(pixel_features, text, auxiliary=auxiliary)
        return predictions, pixel_features.mask_features
