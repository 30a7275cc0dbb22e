"""Class names of well-known data sets, as data: a file for each, a name a line, in the order of the label ids.

In ``zero_shot`` lie those of them that the usual zero-shot split of a data set keeps from training.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

BACKGROUND = "background"
"""What is none of the classes. It has no look that its name could tell of, so zero-shot splits are without it."""


@dataclass(frozen=True)
class ZeroShotSplit:
    """Which classes of a data set are trained on, and which are met in evaluation only.

    Attributes:
        seen: names of the classes that have labels in training, in the order of the label ids.
        unseen: names of those that have none, in the same order.

    Example:
        >>> import mtaclip_plugin as mta
        >>> split = mta.zero_shot_split("coco_stuff")
        >>> len(split.seen), len(split.unseen)
        (156, 15)
    """

    seen: tuple[str, ...]
    unseen: tuple[str, ...]


def vocabulary(name: str) -> tuple[str, ...]:
    """The class names of a data set, in the order of its label ids.

    Args:
        name: ``"ade20k"`` (150 classes), ``"camvid"`` (11), ``"cityscapes"`` (19), ``"coco_stuff"`` (171),
            ``"pascal_context"`` (59) or ``"voc"`` (21, "background" first).

    Raises:
        ValueError: if there is no such vocabulary.

    Example:
        >>> vocabulary("cityscapes")[:3]
        ('road', 'sidewalk', 'building')
    """
    return _lookup(name, _name_lists(""), "vocabulary")


def zero_shot_split(name: str) -> ZeroShotSplit:
    """The usual split of a vocabulary into classes that are trained on and classes that are not.

    They are the splits of ZegFormer (Ding, Xue, Xia, Dai: "Decoupling Zero-Shot Semantic Segmentation", CVPR 2022),
    ZegCLIP and Cascade-CLIP.

    Args:
        name: ``"coco_stuff"`` (156 seen, 15 unseen) or ``"voc"`` (15 and 5; "background" is in neither, and its pixels
            are ignored in training and evaluation).

    Raises:
        ValueError: if there is no such split.

    Example:
        >>> zero_shot_split("voc").unseen
        ('potted plant', 'sheep', 'sofa', 'train', 'tv monitor')
    """
    unseen = _lookup(name, _name_lists("zero_shot"), "zero-shot split")
    seen = (known for known in vocabulary(name) if known not in unseen and known != BACKGROUND)
    return ZeroShotSplit(seen=tuple(seen), unseen=unseen)


def _lookup(name: str, lists: Mapping[str, tuple[str, ...]], kind: str) -> tuple[str, ...]:
    if name not in lists:
        close = difflib.get_close_matches(name.lower(), lists, n=1, cutoff=0.4)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise ValueError(f"no {kind} '{name}'; {hint}There are {', '.join(lists)}")
    return lists[name]


@cache
def _name_lists(folder: str) -> dict[str, tuple[str, ...]]:
    texts = [file for file in (files(__name__) / folder).iterdir() if file.name.endswith(".txt")]
    return {
        file.name.removesuffix(".txt"): tuple(file.read_text(encoding="utf-8").splitlines())
        for file in sorted(texts, key=lambda file: file.name)
    }
