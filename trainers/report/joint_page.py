"""Which classes several data sets have in common, and which they perhaps should have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, takewhile
from typing import Final

import torch.nn.functional as F
from torch import Tensor

from trainers.data.relabelled import Relabelled

NEAR: Final = 0.5
"""The least cosine of two names that mean much the same, once what all names have in common is taken off."""


def describe_joint(
    sets: Mapping[str, Relabelled], class_names: Sequence[str], text: Tensor | None = None
) -> Iterator[str]:
    """The lines of the page: what each set calls each class, which sets stand alone, and names that look alike.

    Args:
        sets: by name, by their joint names.
        class_names: K names of all sets.
        text: (K,T) embeddings of them, or (P,K+1,T) with "none" last; ``None``: only their letters are compared.
    """
    rows = [(name, *(" + ".join(each.sources([name])) or "-" for each in sets.values())) for name in class_names]
    rows.insert(0, ("class", *sets))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shared = [name for name in class_names if len(_owners(name, sets)) > 1]
    yield f"All data sets together: {len(class_names)} classes, {len(shared)} of them in more than one."
    yield ""
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
    for name, each in sets.items():
        if len(sets) > 1 and not set(shared) & set(each.class_names):
            yield f"\n{name} has no class in common with the others: it is learned beside them."
    near = list(near_names(sets, class_names, text))
    if near:
        yield "\nNames that look alike and are not joined; if they mean the same, join them by rename:"
    for first, second in near:
        owners = (", ".join(_owners(name, sets)) for name in (first, second))
        yield "    - " + " ~ ".join(f"{name} ({its})" for name, its in zip((first, second), owners, strict=True))


def near_names(
    sets: Mapping[str, Relabelled], class_names: Sequence[str], text: Tensor | None = None
) -> Iterator[tuple[str, str]]:
    """Pairs of names that look alike, or are near in their text, of which no set has both; see `describe_joint`."""
    cosines = None if text is None else _centred_cosines(text, len(class_names))
    for (row, first), (column, second) in combinations(enumerate(class_names), 2):
        if set(_owners(first, sets)) & set(_owners(second, sets)):
            continue  # who has both tells them apart
        if _look_alike(first, second) or (cosines is not None and cosines[row, column] >= NEAR):
            yield first, second


def _owners(name: str, sets: Mapping[str, Relabelled]) -> list[str]:
    return [own for own, each in sets.items() if name in each.class_names]


def _look_alike(first: str, second: str) -> bool:
    """Whether two names have a word in common, or begin alike."""
    begin = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))))
    return bool(set(first.split()) & set(second.split())) or begin >= max(4, 0.6 * min(len(first), len(second)))


def _centred_cosines(text: Tensor, num_classes: int) -> Tensor:
    """(K,K); names of one kind of encoder all point into nearly one direction, which says nothing."""
    mean = text if text.ndim == 2 else text[:, :num_classes].mean(0)
    centred = F.normalize(mean - mean.mean(0), dim=-1)
    return centred @ centred.T
