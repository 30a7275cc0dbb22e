"""The image tower of an open_clip model beside a segmentation model, which it is no part of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtaclip_plugin.encoders import Preprocessing, encode
from mtaclip_plugin.inference.naming import class_probabilities
from mtaclip_plugin.inference.scoring import Scoring
from mtaclip_plugin.structures import MaskPrediction
from mtaclip_plugin.text.fixed import Move, keeping_values

ClipWay = Literal["pool", "crop"]


@dataclass(frozen=True)
class ImageTower:
    """The image side of an open_clip model.

    Attributes:
        visual: the tower.
        logit_scale: the log of the scale of the model's logits, () or (1).
    """

    visual: Any
    logit_scale: Tensor


class ClipMasks(ABC):
    """Says which classes masks show; what the two ways of it have in common.

    It is no ``nn.Module`` on purpose: its owner's parameters, state dict and train mode are what is trained and
    saved, and the tower, which is frozen and always in eval mode, is neither.

    Args:
        image_tower: the tower, which from then on may be used for nothing else.
        given: what the images that it is going to be given are normalised with.

    Attributes:
        text_channels: size T of the tower's embeddings.

    Raises:
        ValueError: for a tower that gives other than one embedding of an image.
    """

    def __init__(self, image_tower: ImageTower, *, given: Preprocessing) -> None:
        visual, device = image_tower.visual, next(image_tower.visual.parameters()).device
        self.tower: nn.Module = visual.eval().requires_grad_(False)
        self.logit_scale = image_tower.logit_scale.detach().exp().to(device)
        self.interpolation = "bilinear" if visual.preprocess_cfg["interpolation"] == "bilinear" else "bicubic"
        size = visual.image_size
        self.image_size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        mean, std, given_mean, given_std = (
            torch.tensor(colour, device=device).view(3, 1, 1)
            for colour in (visual.image_mean, visual.image_std, given.mean, given.std)
        )
        # Undoes one normalisation and does the other.
        self.factor, self.shift = given_std / std, (given_mean - mean) / std
        colours = zip((*visual.image_mean, *visual.image_std), (*given.mean, *given.std), strict=True)
        self.keeps_colours = all(math.isclose(colour, other, rel_tol=1e-6) for colour, other in colours)
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
        scoring: Scoring,
        *,
        unpooled: Tensor | None = None,
    ) -> MaskPrediction:
        """Adds what the tower says to a prediction.

        Args:
            images: (B, 3, H, W), normalised as they were given to the model.
            prediction: the model's prediction of them.
            text: (P, K+1, T) text embeddings of the tower's own model, "none" last.
            scoring: how the decoder names masks.
            unpooled: what ``encode`` gave beside the encoder's maps.
        """
        decoder = class_probabilities(prediction, scoring)
        return replace(prediction, clip_probabilities=self.ask(images, prediction, text, decoder, unpooled=unpooled))

    @abstractmethod
    def ask(
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
            images: see above, as the next two.
            prediction: of which the masks are.
            text: what they are compared with; "none" is not: the tower is asked which class a mask shows, not whether.
            decoder: (B, Q, K+1) probabilities that the decoder gives, "none" last.
            unpooled: see above.

        Returns:
            (B, Q, K) float32 probabilities of the classes; all are 1 for masks that the tower was not asked about,
            such as empty ones.
        """

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

    def move(self, move: Move) -> None:
        """Moves to another device or dtype as an ``nn.Module`` does, but keeps the weights: no checkpoint has them."""
        keep = keeping_values(move)
        self.tower._apply(keep)
        self.logit_scale, self.factor, self.shift = map(keep, (self.logit_scale, self.factor, self.shift))

    def recoloured(self, images: Tensor) -> Tensor:
        """Images as the tower wants them normalised."""
        return images * self.factor + self.shift


def embedding_of(output: Any) -> Tensor:
    """What a tower gives, without the tokens that some give beside it."""
    return output[0] if isinstance(output, tuple) else output
