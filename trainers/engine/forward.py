"""The one way from images through a model, shared by training, evaluation and prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any, Self, cast

import ignite.distributed as idist
import torch
import torch.nn.functional as F
from kornia.enhance import Normalize
from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor, nn

from mtaclip_plugin import MTACLIP
from mtaclip_plugin.inference import semantic_scores
from trainers.data.batch import unit_values
from trainers.engine.strips import score_strips
from trainers.engine.views import average_views
from trainers.options.config import EvalConfig, Precision


class Forward:
    """Calls a model on images: moves, normalises, and runs it in the chosen precision.

    Images come as they are stored, or as `trainers.data.batch.unit_values` gives them.

    Args:
        model: Gives logits (B, K, H, W) for normalised images (B, C, H, W); it is moved to ``device``.
        mean: Mean of each band, of `unit_values`.
        std: Standard deviation of each band.
        device: Where the model runs.
        precision: Arithmetic of the forward pass; see `resolve_precision`. Weights stay float32.
        evaluation: How `predict_labels` looks at an image; ``None`` for once, as a whole.

    Attributes:
        model: The model itself: what is evaluated and saved.
        trained: What training calls: the model, or what wraps it to run on several processes, or compiled.
    """

    def __init__(
        self,
        model: SegmentationModel,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        precision: Precision,
        evaluation: EvalConfig | None = None,
    ) -> None:
        # Depthwise convolutions on a CPU, and tensor cores on a GPU, are fastest with the channels last.
        self.model = model.to(device, memory_format=torch.channels_last)
        self.trained: nn.Module = self.model
        self.device = device
        self.dtype = resolve_precision(precision, device)
        self._evaluation = evaluation
        self._normalize = Normalize(torch.tensor(mean), torch.tensor(std)).to(device)

    def of(self, model: SegmentationModel) -> Self:
        """The same way through another model on the same device."""
        other = copy(self)
        other.model = other.trained = model
        return other

    def __call__(self, images: Tensor, **options: Any) -> Any:
        """What the trained model gives for ``images`` (B, C, H, W); ``options`` go to the model."""
        return self._run(self.trained, images, **options)

    def _run(self, function: Callable[..., Any], images: Tensor, **options: Any) -> Any:
        images = self._normalize(self._load(images))
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return function(images, **options)

    def _load(self, images: Tensor) -> Tensor:
        return unit_values(images.to(self.device, non_blocking=True))

    @torch.inference_mode()
    def predict_labels(self, images: Tensor) -> Tensor:
        """Class ids (B, H, W) of ``images`` (B, C, H, W), of any size.

        Windows, scales and mirrored images average their scores; an image that is looked at once, as a whole, needs
        no scores at its full size from an "mtaclip".
        """
        return torch.cat(list(self.predict_strips(images)), 1)

    @torch.inference_mode()
    def predict_strips(self, images: Tensor) -> Iterator[Tensor]:
        """The same strip by strip, (B, rows, W), from the top down.

        Where images are looked at in windows, only rows of windows of them, and of their scores, are on the device.
        Otherwise the one strip is the whole.
        """
        self.model.eval()
        if self._evaluation is not None and not _looks_once(self._evaluation):
            for scores in self._score_strips(images, self._evaluation):
                yield scores.argmax(1)
            return
        images = self._load(images)
        # Ids here are columns of the logits; of a single column, predict_labels gives a binary mask instead.
        if isinstance(self.model, MTACLIP) and self.model.config["classes"] > 1:
            yield self._run(self.model.predict_labels, images)
        else:
            yield self._logits(images).argmax(1)

    @torch.inference_mode()
    def scores(self, images: Tensor) -> Tensor:
        """Scores (B, K, H, W) of ``images`` (B, C, H, W), of which `predict_labels` takes the highest."""
        self.model.eval()
        return torch.cat(list(self._score_strips(images, self._evaluation or EvalConfig())), 2)

    def _score_strips(self, images: Tensor, evaluation: EvalConfig) -> Iterator[Tensor]:
        """Scores (B, K, rows, W) of ``images`` (B, C, H, W), averaged over windows, scales and flips."""
        scales, flip = evaluation.scales, evaluation.flip
        if evaluation.mode == "whole":
            return iter([average_views(self._scores, self._load(images), scales=scales, flip=flip)])
        window, stride = evaluation.window, evaluation.stride
        return score_strips(self._scores, images, self._load, window=window, stride=stride, scales=scales, flip=flip)

    def _scores(self, images: Tensor) -> Tensor:
        """(B, K, H, W) float32: the scores of an "mtaclip" as its masks give them, of other models probabilities."""
        model = self.model
        if not isinstance(model, MTACLIP):
            return self._logits(images).float().softmax(1)

        def scores(images: Tensor) -> Tensor:
            return semantic_scores(model(images, return_masks=True), model.current_scoring())

        return cast("Tensor", self._run(scores, images))

    def _logits(self, images: Tensor) -> Tensor:
        """What the model gives for images of any size, (B, K, H, W)."""
        height, width = images.shape[-2:]
        # An edge of repeated pixels is nearer to what the model knows than an edge of black ones.
        multiple = self.model.encoder.output_stride if self.model.requires_divisible_input_shape else 1
        padding = (0, -width % multiple, 0, -height % multiple)
        logits: Tensor = self._run(self.model, F.pad(images, padding, mode="replicate"))
        return logits[..., :height, :width]


def _looks_once(evaluation: EvalConfig) -> bool:
    return evaluation.mode == "whole" and evaluation.scales == (1.0,) and not evaluation.flip


def resolve_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is CUDA where there is one, else the CPU.

    Of several processes each has a GPU of its own.

    Raises:
        ValueError: The device does not exist here.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return idist.device() if idist.get_world_size() > 1 else torch.device("cuda")
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"This machine has no device {name!r}; take auto.") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)  # kernels and random numbers that name no device are of this one, too
    return device


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The type that the forward pass multiplies in.

    With "auto" it is bfloat16 where the processor multiplies that faster than float32: GPUs from Ampere on, and CPUs
    with AMX.
    """
    if precision != "auto":
        return {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32
