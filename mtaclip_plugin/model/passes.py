"""What a model does with images: masks, logits, labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn, Self

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import ClassificationHead
from torch import Tensor, nn

from mtaclip_plugin.arguments import check_adapters, check_images, refuse_torchscript
from mtaclip_plugin.encoders import encode
from mtaclip_plugin.inference import semantic_labels, semantic_logits
from mtaclip_plugin.inference.clip_masks import ClipMasks
from mtaclip_plugin.model.classes import NamedModel
from mtaclip_plugin.structures import MaskPrediction


class SegmentingModel(NamedModel):
    """A model that goes from images through encoder and decoder to scores."""

    encoder: nn.Module
    classification_head: ClassificationHead | None
    _in_channels: int
    _size_multiple: int
    _clip_masks: ClipMasks | None

    def forward(self, x: Tensor, return_masks: bool = False) -> Tensor | tuple[Tensor, Tensor] | MaskPrediction:
        """Segments images of any size.

        Args:
            x: (B, C, H, W) normalised images.
            return_masks: whether to return what ``MTACLIPLoss`` takes.

        Returns:
            (B, K, H, W) logits, for any smp loss and metric in multiclass mode (binary for K = 1); with
            ``aux_params`` a pair of these and the image-level logits, as smp does; with ``return_masks`` the
            ``MaskPrediction``.

        Raises:
            ValueError: if the images are not (B, C, H, W) of the model's dtype, or none; in training, from torch, if
                all that BatchNorm gets of a channel is one number, as for a single image of at most 32 by 32.
        """
        prediction = self._predict_masks(x, auxiliary=return_masks)
        if return_masks:
            return prediction
        logits = semantic_logits(prediction, self.current_scoring())
        return logits if prediction.labels is None else (logits, prediction.labels)

    @torch.no_grad()  # under inference_mode, as predict is, torch.compile could not trace it
    def predict_labels(self, x: Tensor) -> Tensor:
        """The class of each pixel; in less time and memory than the logits that smp's ``predict`` gives.

        Switches to evaluation mode, as ``predict`` does.

        Args:
            x: (B, C, H, W) normalised images of any size.

        Returns:
            (B, H, W) int64 class ids; for K = 1, 1 where the logit is above 0, else 0.

        Raises:
            ValueError: if the images are not (B, C, H, W) of the model's dtype, or none.
        """
        if self.training:
            self.eval()
        return semantic_labels(self._predict_masks(x, auxiliary=False), self.current_scoring())

    def _predict_masks(self, x: Tensor, *, auxiliary: bool) -> MaskPrediction:
        """The last prediction; with ``auxiliary``, the ones before it come along."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined]
            refuse_torchscript()
        if self.training and not torch.compiler.is_compiling():
            check_adapters(self)
        check_images(x, channels=self._in_channels, dtype=self.decoder.mask_text_decoder.mask_queries.weight.dtype)
        text = self._current_text()  # which may wait for a GPU: before that has work of this image
        height, width = x.shape[-2:]
        bottom, right = -height % self._size_multiple, -width % self._size_multiple
        padded = F.pad(x, (0, right, 0, bottom))
        scoring = self.current_scoring()
        clip_masks = None if self.training or not scoring.query_scores else self._clip_masks
        features, unpooled = (
            (encode(self.encoder, padded), None)
            if clip_masks is None
            else clip_masks.encode(self.encoder, padded, (height, width))
        )
        labels = (
            None
            if self.classification_head is None
            else self.classification_head(features[self.decoder.pyramid.indices[-1]])
        )
        pyramid = self.decoder.pyramid(features)
        del features, padded  # of which the largest is not in the pyramid: it need not lie there while the decoder runs
        decoded = self.decoder(pyramid, self._text_to_read(text), auxiliary=auxiliary)
        prediction = decoded.to_prediction((height, width), (height + bottom, width + right))
        if clip_masks is not None and text is not None:
            prediction = clip_masks(x, prediction, text, scoring, unpooled=unpooled)
        return prediction if labels is None else replace(prediction, labels=labels)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if self._clip_masks is not None:
            self._clip_masks.move(fn)
        return super()._apply(fn, recurse)

    def __prepare_scriptable__(self) -> NoReturn:  # noqa: D105, torch.jit.script calls it first
        refuse_torchscript()

    def _set_encoder_trainable(self, mode: bool) -> None:
        """Freezes or unfreezes; a frozen encoder stays in evaluation as a whole, DropPath included."""
        super()._set_encoder_trainable(mode)
        self.encoder.train(mode and self.training)
