"""The options that say what is read: part of the tree in `trainers.options.config`."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from trainers.foundation.errors import UserError, require, user_errors
from trainers.foundation.names import read_names
from trainers.options.sets_config import GENERATED, SetConfig, SetName, check_sets, read_sets

DatasetName = Literal[SetName, "joint"]
DATA_ROOT_VARIABLE = "MTACLIP_DATA"


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how a training crop is made of it."""

    dataset: DatasetName = "shapes"
    """Generated scenes of 64 kinds of figures, or of 11; a folder of images/SPLIT, annotations/SPLIT and classes.txt;
    or a published dataset; joint: those in sets."""
    sets: tuple[SetConfig, ...] | str | None = None
    """Several data sets in place of one: a YAML file that lists them, each with its dataset, root, rename, weight and
    what else is its own; classes of one name are one class."""
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
    train_images: int | None = None
    """How many images of the training split are used, for seeing what few labels are worth; null: all."""
    train_images_seed: int = 0
    """Which ones; of one seed, fewer images are among more."""
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
        """Refuses sizes that no image can have; of files of names, and of sets, what is in them is what is known."""
        if isinstance(self.unseen, str):
            object.__setattr__(self, "unseen", tuple(_listed(self.unseen)))
        if isinstance(self.sets, str):
            object.__setattr__(self, "sets", read_sets(Path(self.sets)))
        if self.sets is not None:
            self._join()
        require(
            (self.dataset == "joint") == (self.sets is not None),
            '--data.dataset "joint" needs --data.sets FILE, which lists the data sets',
        )
        require(min(self.crop_size) >= 1, "--data.crop_size must be at least 1 pixel")
        low, high = self.scale_range
        require(0 < low <= high, "--data.scale_range must be 0 < smallest <= largest")
        require(0 < self.max_class_share <= 1, "--data.max_class_share must be above 0 and at most 1")
        require(self.max_pixels is None or self.max_pixels >= 1, "--data.max_pixels must be at least 1")
        self._check_train_images()
        self._check_bands()

    def _join(self) -> None:
        """Takes over what all sets have in common, and refuses what is for a single one."""
        sets = self.joint_sets
        require(
            not (self.unseen or self.ignore_ids or self.ignore_classes),
            "--data.unseen, --data.ignore_ids and --data.ignore_classes are for one data set; the file of --data.sets "
            "has the latter two for each of its own",
        )
        check_sets(sets, self.channels)
        object.__setattr__(self, "dataset", "joint")
        channels = next((one.channels for one in sets if one.channels), None)
        object.__setattr__(self, "channels", self.channels or channels)

    def _check_train_images(self) -> None:
        """Refuses a number that leaves nothing to train on, or that a generated data set would not heed."""
        require(self.train_images is None or self.train_images >= 1, "--data.train_images must be at least 1")
        require(
            self.train_images is None or not ({self.dataset, *(one.dataset for one in self.joint_sets)} & {*GENERATED}),
            f"--data.train_images is for images on disk; of {' and '.join(GENERATED)} there are --data.train_length",
        )

    def _check_bands(self) -> None:
        """Refuses what images with so many bands cannot have."""
        require(self.channels is None or self.channels >= 1, "--data.channels must be at least 1")
        bands = self.channels or 3
        datasets: list[DatasetName] = [one.dataset for one in self.joint_sets]
        for dataset in datasets or [self.dataset]:
            require(
                bands == 3 or dataset == "folder",
                f'--data.channels {bands} is for the dataset "folder": the images of "{dataset}" have 3',
            )
        require(
            bands == 3 or self.photometric == 0,
            f"--data.photometric distorts red, green and blue; set it to 0 for images of {bands} bands",
        )
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            fits = numbers is None or (len(numbers) == bands and all(map(math.isfinite, numbers)))
            require(fits, f"--data.{name} must have one number for each of the {bands} bands of --data.channels")
        require(self.std is None or min(self.std) > 0, "--data.std must be above 0")
        shown = (1,) if self.show is None else self.show
        require(
            len(shown) in (1, 3) and all(1 <= band <= bands for band in shown),
            f"--data.show must be one or three of the bands 1 to {bands}",
        )

    @property
    def joint_sets(self) -> tuple[SetConfig, ...]:
        """The data sets in ``sets``; none where there is a single ``dataset``."""
        assert not isinstance(self.sets, str)
        return self.sets or ()

    def of(self, one: SetConfig) -> DataConfig:
        """The configuration of one of its data sets by itself."""
        base = self.root or os.environ.get(DATA_ROOT_VARIABLE) or ""
        return replace(
            self,
            sets=None,
            dataset=one.dataset,
            root=self.root if one.root is None else str(Path(base, one.root)),
            train_split=one.train_split or self.train_split,
            val_split=one.val_split or self.val_split,
            ignore_ids=one.ignore_ids,
            mask_suffix=one.mask_suffix or self.mask_suffix,
            ignore_classes=one.ignore_classes,
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
