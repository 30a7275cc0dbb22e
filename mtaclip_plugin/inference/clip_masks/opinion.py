"""The image tower of an open_clip model beside a segmentation model, which it is no part of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtaclip_plugin.encoders import Preprocessing, encode
from mtaclip_plugin.structures import MaskPrediction


class ClipMasks:
    """Says which classes masks show; what the two ways of it have in common.

    It is no ``nn.Module`` on purpose: its owner's parameters, state dict and train mode are what is trained and
    saved, and the tower, which is frozen and always in eval mode, is neither.

    Args:
        visual: the image tower, which from then on may be used for nothing else.
        logit_scale: the log of the scale of its logits, () or (1).
        given: what the images that it is going to be given are normalised with.

    Attributes:
        text_channels: size T of the tower's embeddings.

    Raises:
        ValueError: for a tower that gives other than one embedding of an image.
    """

    def __init__(self, visual: Any, logit_scale: Tensor, *, given: Preprocessing) -> None:
        self.tower: nn.Module = visual.eval().requires_grad_(False)
        self.logit_scale = logit_scale.detach().exp()
        self.interpolation = "bilinear" if visual.preprocess_cfg["interpolation"] == "bilinear" else "bicubic"
        size = visual.image_size
        self.image_size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        mean, std, given_mean, given_std = (
            torch.tensor(colour, device=logit_scale.device).view(3, 1, 1)
            for colour in (visual.image_mean, visual.image_std, given.mean, given.std)
        )
        # Undoes one normalisation and does the other.
        self.factor, self.shift = given_std / std, (given_mean - mean) / std
        with torch.no_grad():
            embedding = embedding_of(visual(self.shift.new_zeros(1, 3, *self.image_size)))
        if embedding.ndim != 2:
            raise ValueError(
                f"clip_masks needs an image tower that gives one embedding of an image; {type(visual).__name__} gives "
                f"numbers of shape {tuple(embedding.shape)} of one image"
            )
        self.text_channels = embedding.shape[1]

    def __call__(
        self,
        images: Tensor,
        prediction: MaskPrediction,
        text: Tensor,
        decoder: Tensor,
        *,
        unpooled: Tensor | None = None,
    ) -> Tensor:
        """Asks the tower.

        Args:
            images: (B, 3, H, W), normalised as they were given to the model.
            prediction: the model's prediction of them.
            text: (P, K+1, T) text embeddings of the tower's own model, "none" last.
            decoder: (B, Q, K+1) probabilities that the decoder gives, "none" last.
            unpooled: what ``encode`` gave beside the encoder's maps.

        Returns:
            (B, Q, K) float32 probabilities of the classes, without "none"; all are 1 for masks that it was not asked
            about, such as empty ones.
        """
        raise NotImplementedError

    def encode(
        self, encoder: nn.Module, images: Tensor, image_size: Sequence[int]
    ) -> tuple[Sequence[Tensor], Tensor | None]:
        """An encoder's maps, and what the tower would make of the same images where it was made on the way.

        Args:
            encoder: the model's.
            images: (B, 3, H', W') padded images.
            image_size: (H, W) without the padding.
        """
        return encode(encoder, images), None

    def compare(self, encoder: nn.Module) -> None:
        """Finds out whether what an encoder makes of images is what the tower makes of them."""

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Applies a move to another device or dtype, as ``nn.Module`` does to its own tensors."""
        self.tower._apply(function)
        self.logit_scale, self.factor, self.shift = map(function, (self.logit_scale, self.factor, self.shift))

    def recoloured(self, images: Tensor) -> Tensor:
        """Images as the tower wants them normalised."""
        return images * self.factor + self.shift


def embedding_of(output: Any) -> Tensor:
    """What a tower gives, without the tokens that some give beside it."""
    return output[0] if isinstance(output, tuple) else output
