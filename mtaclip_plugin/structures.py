"""What the model predicts: one frozen dataclass with named fields, and precision and place of what is made of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

VALUES_AT_ONCE = 2**23
"""Numbers in a tensor that a GPU makes of several predictions at once: where a batch is small, of all of them."""


@dataclass(frozen=True, eq=False)
class MaskPrediction:
    """One prediction of the mask-text decoder, and those of the layers before it.

    Attributes:
        class_logits: (B, Q, K+1) scores of the learned class head; the last column is "none".
        mask_embed: (B, Q, D) one embedding for each mask query.
        mask_features: (B, D, h, w) pixel embeddings at stride 4 of the padded image, shared by all predictions.
        text_logits: (B, Q, P, K+1) similarity of masks and prompts, times the logit scale; ``None`` without text.
        image_size: (H, W) of the image as it was given.
        padded_size: (H', W') after padding right and bottom; h = H'/4, w = W'/4.
        auxiliary: the predictions before this one, in order: before the first layer, after the first layer, ...
        labels: (B, C) image-level logits of the auxiliary classification head; ``None`` without ``aux_params``.
        text_mask_embed: (B, K, D) one embedding for each class, the mean over its text queries; ``None`` unless the
            model has ``text_masks``.
        pixel_logits: (B, K, h, w) similarity of pixels and text, times a scale; ``None`` unless the model has
            ``pixel_scores``. The predictions before the last have none: mask features are the same for all.
        clip_probabilities: (B, Q, K) what CLIP's image tower says each mask shows, all 1 where it says nothing;
            ``None`` unless the model has ``clip_masks``, and in training.

    Example:
        >>> import torch, mtaclip_plugin as mta
        >>> model = mta.MTACLIP("resnet18", encoder_weights=None, classes=3, text_encoder=None, num_queries=5)
        >>> prediction = model(torch.rand(1, 3, 64, 96), return_masks=True)
        >>> prediction.class_logits.shape, prediction.mask_logits.shape
        (torch.Size([1, 5, 4]), torch.Size([1, 5, 16, 24]))
        >>> len(prediction.layers)  # before the first layer, and after each of nine
        10
    """

    class_logits: Tensor
    mask_embed: Tensor
    mask_features: Tensor
    text_logits: Tensor | None
    image_size: tuple[int, int]
    padded_size: tuple[int, int]
    auxiliary: tuple[MaskPrediction, ...] = ()
    labels: Tensor | None = None
    text_mask_embed: Tensor | None = None
    pixel_logits: Tensor | None = None
    clip_probabilities: Tensor | None = None

    @property
    def mask_logits(self) -> Tensor:
        """(B, Q, h, w) mask logits at stride 4 of the padded image, computed at each access."""
        return torch.einsum("bqd,bdhw->bqhw", self.mask_embed, self.mask_features)

    @property
    def text_mask_logits(self) -> Tensor | None:
        """(B, K, h, w) mask logits of the classes' text queries, computed at each access; ``None`` without them."""
        if self.text_mask_embed is None:
            return None
        return torch.einsum("bkd,bdhw->bkhw", self.text_mask_embed, self.mask_features)

    @property
    def layers(self) -> tuple[MaskPrediction, ...]:
        """All predictions in the order of the decoder, this one last."""
        return (*self.auxiliary, self)


def full_precision(tensor: Tensor) -> Tensor:
    """The numbers in float32, or in float64 if they are, for sums over many pixels, masks and classes."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A host's tensor on a device, where it comes in its turn: the host does not wait until the device is there.

    Args:
        tensor: of any shape, on the host.
        device: where it is wanted.
    """
    # Only from page-locked memory does a GPU fetch by itself.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def predictions_at_once(values: int, device: torch.device) -> int:
    """Of how many predictions to make something at once, so that no tensor of it outgrows ``VALUES_AT_ONCE``.

    Args:
        values: numbers in the largest tensor that is made of one prediction.
        device: a GPU is kept waiting by many small operations, a CPU by what is larger than its caches.
    """
    return 1 if device.type == "cpu" else max(1, VALUES_AT_ONCE // max(1, values))
