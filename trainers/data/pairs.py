"""Images and their masks as pairs of files: what every dataset on disk comes down to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.data.batch import Sample, SegmentationDataset
from trainers.data.colors import ColorTable
from trainers.data.labels import LabelTable
from trainers.data.problems import MissingFileError, Problem, UnfitFileError
from trainers.data.reader import PICTURES, ImageReader
from trainers.data.reading import read_ids


@dataclass(frozen=True)
class Pair:
    """An image file and its mask file.

    Attributes:
        name: what messages and written files call the pair.
        image: an image that the dataset's reader can read.
        mask: a picture with one id, or one colour, a pixel.
        as_stored: whether the mask was drawn on the image's pixels as they are stored, whatever EXIF says of them.
    """

    name: str
    image: Path
    mask: Path
    as_stored: bool = False


class PairDataset(SegmentationDataset):
    """Pairs of an image and a mask, read when they are asked for.

    Args:
        pairs: the files.
        class_names: K names in the order of the classes.
        table: what the ids in the masks mean.
        reader: reads the images.
        colors: the ids of the colours in them, where they are in colours.
        remarks: what the user should know of the files.
        faults: what is wrong with the dataset as a whole, where it is read all the same.

    Raises:
        FileNotFoundError: none of the images has a mask. One without a mask among others is told when it is read.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        class_names: Sequence[str],
        table: LabelTable,
        reader: ImageReader = PICTURES,
        colors: ColorTable | None = None,
        remarks: Sequence[Problem] = (),
        faults: Sequence[Problem] = (),
    ) -> None:
        if not any(pair.mask.is_file() for pair in pairs):
            raise FileNotFoundError(
                f"None of the {len(pairs)} images has a mask: of {pairs[0].image}, it was expected at {pairs[0].mask}."
            )
        self.pairs = list(pairs)
        self.class_names = list(class_names)
        self.table = table
        self.reader = reader
        self.colors = colors
        self.remarks = list(remarks)
        self.faults = list(faults)

    @property
    def names(self) -> list[str]:
        """What the pairs are called."""
        return [pair.name for pair in self.pairs]

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one image and its mask.

        Raises:
            OSError: a file is missing or cannot be read.
            ValueError: see `read_pair`; or the mask holds unknown ids.
        """
        pair = self.pairs[index]
        image, ids = self.read_pair(pair)
        return Sample(image=image, label=torch.from_numpy(self.table.read(ids, name=str(pair.mask))), name=pair.name)

    def read_pair(self, pair: Pair) -> tuple[Tensor, NDArray[np.int64]]:
        """The image (C,H,W) and the ids (H,W) of its mask, before it is looked up what they mean.

        Raises:
            OSError: a file is missing or cannot be read.
            ValueError: the image is not what the reader reads, or the mask does not hold ids, or differs from the image
                in size.
        """
        if not pair.mask.is_file():
            raise MissingFileError(
                Problem(
                    "images without a mask",
                    str(pair.image),
                    f"has no mask: expected a PNG of class ids at {pair.mask}",
                    "add the mask, or remove the image",
                    "The image",
                )
            )
        ids = read_ids(pair.mask, colors=self.colors, max_pixels=self.reader.max_pixels)
        image = self.reader(pair.image, as_stored=pair.as_stored)
        if ids.shape != tuple(image.shape[1:]):
            raise UnfitFileError(
                Problem(
                    "masks of another size than their image",
                    str(pair.mask),
                    f"is {ids.shape[1]}x{ids.shape[0]} pixels but its image is {image.shape[2]}x{image.shape[1]}",
                    "give both the same size",
                )
            )
        return image, ids

    def without(self, indices: Iterable[int]) -> Self:
        """The same dataset, in the same order, but for the pairs at ``indices``."""
        left_out = set(indices)
        rest = copy(self)
        rest.pairs = [pair for index, pair in enumerate(self.pairs) if index not in left_out]
        return rest
