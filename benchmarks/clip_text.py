"""CLIP's own text embeddings of names, from files, and those of a data set's classes among them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from benchmarks.clip_names import ONLY_NEAR, SAME_THING
from mtaclip_plugin.text import load_embeddings
from trainers.data.class_list import read_class_names

ClipTemplate = Literal["single", "ensemble"]

CLIP_NAMES_FILE: Final = "coco_stuff_171_names.txt"
CLIP_BANK_FILE: Final = "coco_stuff_171_vit_b16_{template}.npy"
SAME_SPACE: Final = 0.8
"""Mean cosine of names that two files share, above which they are of one CLIP model: another template of ViT-B/16 has
0.97, ViT-B/32, of as many numbers, -0.03."""


@dataclass(frozen=True)
class NamedText:
    """Embeddings of names.

    Attributes:
        names: N of them.
        embeddings: (N, T) of unit norm, float32.
    """

    names: tuple[str, ...]
    embeddings: Tensor

    def of(self, names: Sequence[str]) -> Tensor:
        """(len(names), T): those of some names."""
        return self.embeddings[[self.names.index(name) for name in names]]


@dataclass(frozen=True)
class Coverage:
    """By which names the embeddings stand for classes.

    Attributes:
        exact: class names that there are embeddings of.
        same_thing: names of the same thing by class name.
        only_near: the nearest names by class name.
        missing: class names with no name near.
    """

    exact: tuple[str, ...]
    same_thing: dict[str, str]
    only_near: dict[str, str]
    missing: tuple[str, ...]

    def name_of(self, class_name: str) -> str:
        """The name that stands for a class which is not missing."""
        return (self.same_thing | self.only_near).get(class_name, class_name)


def load_named_text(path: Path, *, template: ClipTemplate = "ensemble") -> NamedText:
    """Reads embeddings with their names.

    Args:
        path: a .safetensors file with ``text_embeddings`` (N, T) and the N names as JSON in its metadata
            ``class_names``; or a folder with the names of COCO-Stuff and one array for each template.
        template: of the folder; "single" is one sentence around each name, "ensemble" the mean of many.

    Raises:
        FileNotFoundError: if the file, or one in the folder, is not there.
        ValueError: if it holds no names, or not one row for each.
    """
    if path.is_dir():
        names = read_class_names(path / CLIP_NAMES_FILE)
        embeddings = load_embeddings(path / CLIP_BANK_FILE.format(template=template))
    else:
        embeddings = load_embeddings(path)
        names = _names_within(path)
    if embeddings.ndim != 2 or len(embeddings) != len(names):
        raise ValueError(
            f"{path} holds embeddings of shape {tuple(embeddings.shape)} for {len(names)} names; take files with one "
            "row for each name"
        )
    return NamedText(tuple(names), F.normalize(embeddings.float(), dim=-1))


def _names_within(path: Path) -> list[str]:
    try:
        with safe_open(path, "pt") as file:
            names: list[str] = json.loads((file.metadata() or {})["class_names"])
    except (SafetensorError, KeyError, json.JSONDecodeError):
        raise ValueError(
            f'{path} does not say which names it is of: it needs JSON in its metadata "class_names"'
        ) from None
    return names


def joined(sources: Sequence[NamedText]) -> NamedText:
    """Embeddings of several files as one; of a name that two have, the first one's.

    Raises:
        ValueError: if two are not of one CLIP model, by their size or by the names that they share.
    """
    first, *others = sources
    for other in others:
        first = _added(first, other)
    return first


def _added(first: NamedText, other: NamedText) -> NamedText:
    shared = [name for name in other.names if name in first.names]
    sizes = first.embeddings.shape[1], other.embeddings.shape[1]
    if sizes[0] != sizes[1]:
        raise ValueError(f"embeddings of {sizes[0]} and {sizes[1]} numbers are of different CLIP models; take one")
    if not shared:
        raise ValueError("files that share no name cannot be seen to be of one CLIP model; take one of them")
    likeness = (first.of(shared) * other.of(shared)).sum(1).mean().item()
    if likeness < SAME_SPACE:
        raise ValueError(
            f"the {len(shared)} names that two files share have a mean cosine of {likeness:.2f}, so they are of "
            "different CLIP models, whose embeddings mean nothing to each other; take files of one model"
        )
    new = [name for name in other.names if name not in first.names]
    return NamedText((*first.names, *new), torch.cat([first.embeddings, other.of(new)]))


def clip_coverage(class_names: Sequence[str], text: NamedText) -> Coverage:
    """Which of the classes the embeddings can stand for.

    Args:
        class_names: the K names.
        text: what there is.
    """
    known = set(text.names)
    exact = tuple(name for name in class_names if name in known)
    others = [name for name in class_names if name not in known]
    same_thing = _translated(others, SAME_THING, known)
    only_near = _translated([name for name in others if name not in same_thing], ONLY_NEAR, known)
    missing = tuple(name for name in others if name not in same_thing and name not in only_near)
    return Coverage(exact, same_thing, only_near, missing)


def _translated(names: Sequence[str], table: Mapping[str, Sequence[str]], known: set[str]) -> dict[str, str]:
    found = {name: next((each for each in table.get(name, ()) if each in known), None) for name in names}
    return {name: each for name, each in found.items() if each is not None}


def clip_bank(class_names: Sequence[str], text: NamedText) -> Tensor:
    """CLIP's text embeddings of the classes, or of what is nearest to them, as `clip_coverage` has it.

    Args:
        class_names: the K names.
        text: what there is.

    Returns:
        (K, T) of unit norm, float32, no two rows of one name.

    Raises:
        ValueError: if some class has no name near, or two have the same.
    """
    coverage = clip_coverage(class_names, text)
    if coverage.missing:
        raise ValueError(
            f"the embeddings have none for {len(coverage.missing)} of {len(class_names)} classes "
            f"({', '.join(coverage.missing)}); take a data set that they cover, or another source of text"
        )
    known_as = [coverage.name_of(name) for name in class_names]
    shared = [name for name, known in zip(class_names, known_as, strict=True) if known_as.count(known) > 1]
    if shared:
        raise ValueError(
            f"the classes {', '.join(shared)} would share an embedding, so that the text could not tell them apart; "
            "take another source of text"
        )
    return text.of(known_as)
