"""The options of one of several data sets that are trained on together, and the file that lists them."""

from __future__ import annotations

import math
from argparse import ArgumentError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from jsonargparse import ArgumentParser

from trainers.foundation.errors import UserError, require

SetName = Literal[
    "kinds", "shapes", "folder", "ade20k", "cityscapes", "voc2012", "pascal_context", "coco_stuff", "camvid"
]
GENERATED: Final = ("kinds", "shapes")
"""Data sets without files."""


@dataclass(frozen=True)
class SetConfig:
    """One of several data sets; what it leaves open is as in the section "data"."""

    name: str = ""
    """What tables call it; by default the last part of root, or else the dataset."""
    dataset: SetName = "folder"
    """See data.dataset."""
    root: str | None = None
    """Its folder, below data.root if that is given; null: data.root itself."""
    train_split: str | None = None
    """Name of its split that is trained on."""
    val_split: str | None = None
    """Name of its split that is validated on."""
    ignore_ids: tuple[int, ...] = ()
    """See data.ignore_ids."""
    mask_suffix: str = ""
    """See data.mask_suffix."""
    ignore_classes: tuple[str, ...] = ()
    """See data.ignore_classes; by the names before they are renamed."""
    channels: int | None = None
    """See data.channels; the same for all sets."""
    weight: float | None = None
    """How often its images are drawn beside those of the others; null: the square root of their number."""
    rename: dict[str, str] = field(default_factory=dict, hash=False)
    """Other names for some of its classes, {pedestrian: person}: classes of one name are one class."""

    def __post_init__(self) -> None:
        """Gives it a name, and refuses weights that nothing can be drawn by."""
        if not self.name:
            object.__setattr__(self, "name", self.dataset if self.root is None else Path(self.root).name)
        plain = self.name == Path(self.name).name and self.name != ".."
        require(plain, f"The name of a data set names folders, too, which {self.name!r} cannot; give it another name")
        drawn = self.weight is None or 0 < self.weight < math.inf
        require(
            drawn,
            f"The weight of the set {self.name} is {self.weight}, but must be above 0; leave out of the file what is "
            "not to be trained on",
        )


def read_sets(file: Path) -> tuple[SetConfig, ...]:
    """The data sets that a YAML file lists.

    Raises:
        UserError: There is no such file, or it is no list of data sets.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--data.sets cannot be read: {error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--data.sets: {file} is no YAML: {error}") from error
    if not isinstance(content, list) or not content or not all(isinstance(one, dict) for one in content):
        raise UserError(
            f"--data.sets: {file} must hold a list of data sets, each with its options, as "
            "'- {dataset: folder, root: DIR, rename: {pedestrian: person}}'."
        )
    return tuple(_read_set(one, file) for one in content)


def _read_set(options: dict[str, Any], file: Path) -> SetConfig:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SetConfig, "set")
    try:
        return parser.instantiate(parser.parse_object({"set": options})).set
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except ArgumentError as error:
        raise UserError(f"{file}, data set {options.get('name') or options.get('root')}: {error}") from error


def check_sets(sets: tuple[SetConfig, ...], channels: int | None) -> None:
    """Refuses sets that cannot be told apart, or whose images one model cannot read.

    Args:
        sets: All of them.
        channels: Bands of their images, where they do not say so themselves.

    Raises:
        UserError: There is none, two have one name, some have a weight and some do not, or the bands differ.
    """
    require(bool(sets), "--data.sets names no data set; list one or more")
    names = [one.name for one in sets]
    twice = next((name for name in names if names.count(name) > 1), None)
    require(twice is None, f"--data.sets has two sets of the name {twice}; give each a name of its own by 'name: NAME'")
    bare = [one.name for one in sets if one.weight is None]
    require(
        len(bare) in (0, len(sets)),
        f"--data.sets gives some sets a weight, but {', '.join(bare)} none; give one to all, or to none",
    )
    bands = {one.name: one.channels or channels or 3 for one in sets}
    told = ", ".join(f"{name} {count}" for name, count in bands.items())
    same = len({*bands.values(), *([channels] if channels else [])}) == 1
    require(same, f"The images of one model have one number of bands, but --data.sets has: {told}; leave one kind out")
