"""Whether the masks of a dataset lie on the pixels as they are stored, or as EXIF turns them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from trainers.data.pairs import Pair
from trainers.data.problems import Problem
from trainers.data.stored import Header, read_header

Evidence = Literal["none", "stored", "turned", "either"]


def settle_orientations(
    pairs: Sequence[Pair], others: Callable[[], Iterable[Pair]] = tuple, *, max_pixels: int | None = None
) -> tuple[list[Pair], list[Problem]]:
    """Decide for each pair whether its image stays as stored, where EXIF would turn it.

    Where the sizes of an image and of its mask can tell, they do: the image is not square and its orientation swaps
    height and width. Of other turned images, the rest of the dataset tells: if all whose sizes can tell stay as stored,
    they do too. Otherwise they are turned; if nothing tells, or one thing here and another there, that is remarked.

    Only heads of files are read. What comes out depends on the files alone.

    Args:
        pairs: one split of the dataset.
        others: gives pairs of the whole dataset; asked for where the split alone does not tell.
        max_pixels: of a picture that is read later, see `trainers.data.limits.check_pixels`.

    Returns:
        The pairs, and remarks on images that nothing tells of.
    """
    found = [_evidence(pair, max_pixels) for pair in pairs]
    open_ = [pair for pair, evidence in zip(pairs, found, strict=True) if evidence == "either"]
    told = set(found) & {"stored", "turned"}
    if open_:
        told |= {_evidence(pair, max_pixels) for pair in others()} & {"stored", "turned"}
    stays = told == {"stored"}
    settled = [
        replace(pair, as_stored=evidence == "stored" or (evidence == "either" and stays))
        for pair, evidence in zip(pairs, found, strict=True)
    ]
    return settled, [] if len(told) == 1 else [_remark(pair) for pair in open_]


def _evidence(pair: Pair, max_pixels: int | None) -> Evidence:
    image = _header(pair.image, max_pixels)
    if image is None or image.orientation == 1:
        return "none"
    mask = _header(pair.mask, max_pixels)
    fits_stored, fits_turned = (mask is not None and mask.size == size for size in (image.size, image.turned_size))
    if fits_stored and fits_turned:
        return "either"
    return "stored" if fits_stored else "turned" if fits_turned else "none"


def _header(path: Path, max_pixels: int | None) -> Header | None:
    """``None`` for a file that reading it will tell of."""
    try:
        return read_header(path, max_pixels=max_pixels)
    except Exception:  # what a damaged head ends in, depends on the byte
        return None


def _remark(pair: Pair) -> Problem:
    return Problem(
        "images turned by EXIF, perhaps without their masks",
        str(pair.image),
        "is turned as its EXIF orientation says",
        "sizes of files do not tell whether the masks were drawn on the turned pixels: look at one, and if not, save "
        "the images anew without EXIF orientation",
        "The image",
    )
