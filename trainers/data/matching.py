"""Which image of a folder a mask belongs to, told by their names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.data.files import FoundFiles, find_files
from trainers.data.pairs import Pair
from trainers.data.problems import Problem
from trainers.data.reading import IMAGE_SUFFIXES


@dataclass(frozen=True)
class MatchedFiles:
    """Images with their masks.

    Attributes:
        pairs: one for each name of an image; where it has no mask, with the place where one was expected.
        faults: images that share a mask, and masks that share an image. The first of each is in the pair.
        remarks: files that are left aside.
    """

    pairs: list[Pair]
    faults: list[Problem]
    remarks: list[Problem]


def match_files(
    images: Path, masks: Path, *, mask_suffix: str = "", image_suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> MatchedFiles:
    """Pair the images in a folder with the masks in another, both with all folders below them.

    Args:
        images: a folder with NAME.jpg, or another format. NAME is the path below this folder, without the suffix.
        masks: with NAME and ``mask_suffix``. Where there are several formats of it, the PNG is the mask.
        mask_suffix: with the suffix of a format, or without for any format. Capitals make no difference in it.
        image_suffixes: those of the formats that images are read in.

    Raises:
        FileNotFoundError: no image has a mask, but there is one that begins alike.
        ValueError: there is no image.
    """
    found = find_files(images, suffixes=image_suffixes)
    found_masks = find_files(masks) if masks.is_dir() else FoundFiles([], [])
    if not found.pictures:
        raise ValueError(f"{images} holds no image ({', '.join(image_suffixes)}).")
    by_name: dict[str, list[Path]] = {}
    for path in found.pictures:
        by_name.setdefault(path.relative_to(images).with_suffix("").as_posix(), []).append(path)
    masks_of, spare = _match(by_name, masks, found_masks.pictures, mask_suffix)
    if not masks_of:
        _look_for_suffix(next(iter(by_name)), masks, spare)
    pairs, faults = [], []
    for name, same in by_name.items():
        candidates = masks_of.get(name, [])
        chosen = [path for path in candidates if path.suffix.lower() == ".png"] or candidates
        spare += [path for path in candidates if path not in chosen]
        expected = masks / f"{name}{mask_suffix}{'' if _has_format(mask_suffix) else '.png'}"
        pairs.append(Pair(name, same[0], chosen[0] if chosen else expected))
        if len(same) > 1:
            faults.append(_clash("images of one name", same, "would share a mask"))
        if len(chosen) > 1:
            faults.append(_clash("masks of one name", chosen, "would share an image"))
    return MatchedFiles(pairs, faults, [*found.remarks, *found_masks.remarks, *map(_spare_mask, sorted(spare))])


def _match(
    names: Collection[str], folder: Path, masks: Sequence[Path], suffix: str
) -> tuple[dict[str, list[Path]], list[Path]]:
    """The masks of each image that has any, and those of no image."""
    found: dict[str, list[Path]] = {}
    spare: list[Path] = []
    for mask in masks:
        path = mask.relative_to(folder).as_posix()
        end = (suffix if _has_format(suffix) else suffix + mask.suffix).lower()
        name = path[: -len(end)]
        if path[len(name) :].lower() == end and name in names:
            found.setdefault(name, []).append(mask)
        else:
            spare.append(mask)
    return found, spare


def _has_format(suffix: str) -> bool:
    return suffix.lower().endswith(IMAGE_SUFFIXES)


def _look_for_suffix(name: str, folder: Path, masks: Sequence[Path]) -> None:
    for mask in masks:
        path = mask.relative_to(folder).with_suffix("").as_posix()
        end = path.removeprefix(name)
        if path.startswith(name) and not end[:1].isalnum():
            raise FileNotFoundError(
                f"None of the images has a mask of its own name, but {name} may have {mask}; if so, add "
                f'--data.mask_suffix "{end}".'
            )


def _clash(kind: str, paths: Sequence[Path], detail: str) -> Problem:
    others = " and ".join(map(str, paths[1:]))
    return Problem(kind, str(paths[0]), f"and {others} have one name and {detail}", "rename one, or remove it", "")


def _spare_mask(path: Path) -> Problem:
    remedy = "add the images if they are to be used, or name what follows an image's name by --data.mask_suffix"
    return Problem("masks left aside, without an image of their own", str(path), "", remedy, "")
