"""The options of a training run: a tree of frozen dataclasses."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainers.foundation.errors import UserError, user_errors
from trainers.foundation.names import read_names
from trainers.options.model import LossConfig, ModelConfig

DatasetName = Literal[
    "kinds", "shapes", "folder", "ade20k", "cityscapes", "voc2012", "pascal_context", "coco_stuff", "camvid"
]
Precision = Literal["auto", "float32", "bf16", "fp16"]
DATA_ROOT_VARIABLE = "MTACLIP_DATA"


def require(condition: bool, sentence: str) -> None:
    """Refuses an option's value with a sentence.

    Raises:
        UserError: The condition does not hold.
    """
    if not condition:
        raise UserError(sentence)


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how a training crop is made of it."""

    dataset: DatasetName = "shapes"
    """Generated scenes of 64 kinds of figures, or of 11; a folder of images/SPLIT, annotations/SPLIT and classes.txt;
    or a published dataset."""
    root: str | None = None
    """The folder of the dataset, not for generated ones; null: the environment variable MTACLIP_DATA."""
    ignore_ids: tuple[int, ...] = ()
    """Label ids of the dataset "folder" that are void, e.g. [11]."""
    mask_suffix: str = ""
    """What follows an image's name in its mask's in the dataset "folder": _mask for NAME_mask.png or another format."""
    ignore_classes: tuple[str, ...] = ()
    """Names of classes that are void: their pixels are neither trained on nor evaluated, e.g. [background]."""
    unseen: tuple[str, ...] | str | None = None
    """Names of classes that are kept from training and named by their text in evaluation, e.g. [sheep,sofa]; or a file
    with one name a line; null: those that the dataset itself keeps back, as "kinds" does, [] none."""
    on_error: Literal["stop", "skip"] = "stop"
    """stop: a picture that cannot be used ends the run before its first step; skip: it is left out and reported."""
    train_split: str = "train"
    """Name of the split that is trained on."""
    val_split: str = "val"
    """Name of the split that is validated on."""
    channels: int | None = None
    """Bands of each image of the dataset "folder", in TIFF or .npy files of uint8, uint16 or float32, or in pictures;
    null: pictures of 8 bits in red, green and blue."""
    max_pixels: int | None = None
    """Most pixels that an image may have; null: 178956970, Pillow's limit against harmful files."""
    show: tuple[int, ...] | None = None
    """Bands that are drawn as red, green and blue, or one as grey, counted from 1; null: the first three or one."""
    size: int = 128
    """Side of generated images, in pixels."""
    train_length: int = 2000
    """Number of generated training images."""
    val_length: int = 100
    """Number of generated validation images."""
    crop_size: tuple[int, int] = (128, 128)
    """Height and width of a training crop, in pixels."""
    scale_range: tuple[float, float] = (0.75, 1.5)
    """Smallest and largest factor that a training image is resized by."""
    flip: float = 0.5
    """Probability that a training crop is flipped left to right."""
    photometric: float = 0.0
    """Strength of the distortion of brightness, contrast, saturation and hue; 0 is none, 1 the usual one."""
    max_class_share: float = 1.0
    """Largest share of a training crop that one class may take, as far as ten tries find such a crop; 1: any."""
    mean: tuple[float, ...] | None = None
    """Mean of each band, of values of 8 bits divided by 255, those of 16 bits by 65535, float32 as they are; null: of
    three bands of 8 bits the encoder's own, else ImageNet's, of others that of the training images."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each band, likewise."""
    num_workers: int = 0
    """Processes that decode and cut images; 0: the training process does it."""

    def __post_init__(self) -> None:
        """Refuses sizes that no image can have; from a file of names on, the names are what is known."""
        if isinstance(self.unseen, str):
            object.__setattr__(self, "unseen", tuple(_listed(self.unseen)))
        require(min(self.crop_size) >= 1, "--data.crop_size must be at least 1 pixel")
        low, high = self.scale_range
        require(0 < low <= high, "--data.scale_range must be 0 < smallest <= largest")
        require(0 < self.max_class_share <= 1, "--data.max_class_share must be above 0 and at most 1")
        require(self.max_pixels is None or self.max_pixels >= 1, "--data.max_pixels must be at least 1")
        self._check_bands()

    def _check_bands(self) -> None:
        """Refuses what images with so many bands cannot have."""
        require(self.channels is None or self.channels >= 1, "--data.channels must be at least 1")
        bands = self.channels or 3
        require(
            bands == 3 or self.dataset == "folder",
            f'--data.channels {bands} is for the dataset "folder": the images of "{self.dataset}" have 3',
        )
        require(
            bands == 3 or self.photometric == 0,
            f"--data.photometric distorts red, green and blue; set it to 0 for images of {bands} bands",
        )
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            fits = numbers is None or len(numbers) == bands
            require(fits, f"--data.{name} must have one number for each of the {bands} bands of --data.channels")
        require(self.std is None or all(0 < each < math.inf for each in self.std), "--data.std must be above 0")
        shown = (1,) if self.show is None else self.show
        require(
            len(shown) in (1, 3) and all(1 <= band <= bands for band in shown),
            f"--data.show must be one or three of the bands 1 to {bands}",
        )

    @property
    def shown_bands(self) -> tuple[int, ...]:
        """The bands that are drawn as red, green and blue, or the one that is drawn as grey, counted from 1."""
        return self.show or ((1,) if self.channels in (1, 2) else (1, 2, 3))

    @property
    def unseen_names(self) -> tuple[str, ...]:
        """The names in ``unseen``, once it is known what those of the dataset itself are."""
        assert not isinstance(self.unseen, str)
        return self.unseen or ()


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
    """All options; the default is the demo."""

    data: DataConfig = DataConfig()
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


def _listed(file: str) -> list[str]:
    with user_errors():
        try:
            return read_names(Path(file))
        except FileNotFoundError as error:
            raise UserError(
                f"--data.unseen is neither a list of names, as '[sheep,sofa]', nor a file that is there: {file}."
            ) from error


def data_root(config: DataConfig) -> Path:
    """The folder of the dataset: ``root``, else the environment variable MTACLIP_DATA.

    Raises:
        UserError: Neither is given.
    """
    root = config.root or os.environ.get(DATA_ROOT_VARIABLE)
    if root is None:
        raise UserError(f'The dataset "{config.dataset}" needs --data.root DIR, or the variable {DATA_ROOT_VARIABLE}.')
    return Path(root)
