"""The options of a training run: a tree of frozen dataclasses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from trainers.foundation.errors import require
from trainers.options.data_config import DataConfig
from trainers.options.model_config import LossConfig, ModelConfig

Precision = Literal["auto", "float32", "bf16", "fp16"]


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a linear warm-up and a polynomial decay, stepped every iteration."""

    lr: float = 1e-3
    """Peak learning rate."""
    encoder_lr_factor: float = 0.5
    """The encoder's learning rate as a share of lr."""
    weight_decay: float = 0.02
    """Weight decay; none on norms, biases, embeddings, contexts and scales."""
    warmup_iterations: int = 50
    """Iterations of the linear warm-up."""
    power: float = 0.9
    """Exponent of the polynomial decay."""
    clip_norm: float = 1.0
    """Largest norm of all gradients together."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each block of the encoder to the one before it, e.g. 0.9 for transformers."""
    freeze_encoder: bool = False
    """Leave the encoder as it is: no gradient, and its norms keep their statistics."""
    freeze_norms: bool = False
    """Let batch norms of the encoder keep the statistics that they came with; a few small crops tell too little."""

    def __post_init__(self) -> None:
        """Refuses rates that are no numbers, and a decay that would raise them."""
        for name in ("lr", "encoder_lr_factor", "weight_decay", "power", "clip_norm"):
            require(0 <= getattr(self, name) < math.inf, f"--optim.{name} must be a number, 0 or above")
        require(0 < self.layer_decay <= 1, "--optim.layer_decay must be above 0 and at most 1")


@dataclass(frozen=True)
class EvalConfig:
    """How validation, evaluation and prediction run the model on an image."""

    mode: Literal["whole", "slide"] = "whole"
    """whole: the image in one piece; slide: windows over it, whose scores are averaged where they overlap."""
    window: tuple[int, int] = (512, 512)
    """Height and width of a window, in pixels."""
    stride: tuple[int, int] = (341, 341)
    """Pixels from one window to the next, down and to the right."""
    scales: tuple[float, ...] = (1.0,)
    """Factors that the image is resized by; the scores of all are averaged, e.g. [0.5,0.75,1,1.25,1.5,1.75]."""
    flip: bool = False
    """Average the scores with those of the mirrored image."""

    def __post_init__(self) -> None:
        """Refuses windows that leave gaps, and scales that no image can have."""
        require(min(self.stride) >= 1, "--eval.stride must be at least 1 pixel")
        gaps = any(step > side for step, side in zip(self.stride, self.window, strict=True))
        require(not gaps, "--eval.stride must not be larger than --eval.window, or pixels would be left out")
        require(bool(self.scales) and min(self.scales) > 0, "--eval.scales must be one or more positive factors")


@dataclass(frozen=True)
class TrainConfig:
    """The run itself."""

    iterations: int = 400
    """Training steps of the whole run."""
    batch_size: int = 8
    """Images a step, over all processes."""
    accumulate: int = 1
    """Parts that the batch of each process is worked off in: less memory, the same gradients."""
    seed: int = 0
    """Everything random in the run derives from it."""
    precision: Precision = "auto"
    """Arithmetic of the forward pass; auto: bf16 where the processor has matrix units for it, else float32."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto: cuda where there is one, of each process its own."""
    ema_decay: float = 0.0
    """Decay of a moving average of the weights, e.g. 0.999, which is then what is validated; 0: none."""
    compile: bool = False
    """Compile the model with torch.compile."""
    gradient_checkpointing: bool = False
    """Compute the encoder's activations again in the backward pass: less memory, more time. For timm's encoders."""
    validate_every: int = 100
    """Iterations between validations."""
    checkpoint_every: int | None = None
    """Iterations between checkpoints; null: those of validate_every."""
    overlays: int = 6
    """Validation images that are drawn at each validation."""
    output: str = "runs/shapes"
    """Folder of checkpoints, overlays, TensorBoard log and resolved configuration."""
    resume: Literal["auto", "always", "never"] = "auto"
    """If the output folder holds a run: auto goes on with it if the options are the same, always even if options
    other than the model's have changed, never refuses."""

    def __post_init__(self) -> None:
        """Refuses counts below one, and a batch that does not divide."""
        for name in ("iterations", "batch_size", "accumulate", "validate_every"):
            require(getattr(self, name) >= 1, f"--train.{name} must be at least 1")
        require(
            self.checkpoint_every is None or self.checkpoint_every >= 1, "--train.checkpoint_every must be at least 1"
        )
        require(0 <= self.ema_decay < 1, "--train.ema_decay must be at least 0 and below 1")


@dataclass(frozen=True)
class Config:
    """All options; the default is that of trainers/configs/shapes.yaml."""

    data: DataConfig = DataConfig()  # noqa: RUF009  it is frozen, as its neighbours
    """What is read, and how a training crop is made of it."""
    model: ModelConfig = ModelConfig()
    """Which model is trained; what follows encoder_weights is read by "mtaclip" only."""
    loss: LossConfig = LossConfig()
    """Losses of "mtaclip"; other architectures train on cross-entropy + dice."""
    optim: OptimConfig = OptimConfig()
    """AdamW with a linear warm-up and a polynomial decay, stepped every iteration."""
    eval: EvalConfig = EvalConfig()
    """How validation, evaluation and prediction run the model on an image."""
    train: TrainConfig = TrainConfig()
    """The run itself."""
