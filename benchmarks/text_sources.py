"""Banks of text embeddings that differ in what they know of the classes, for the ablation of the text's part.

``python -m benchmarks.text_sources --clip_text DIR --classes FILE --output FILE`` writes one of CLIP's.

A bank with its rows dealt out anew has the same rows, but tells nothing true of a class; a random one tells nothing at
all; one of CLIP's own embeddings knows what the classes look like. CLIP's are those of the 171 names of COCO-Stuff,
from a folder with their list and one array for each template, rows in the order of the list.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from mtaclip_plugin.text import load_embeddings
from trainers.data.class_list import read_class_names
from trainers.foundation.errors import main_guard, user_errors

ClipTemplate = Literal["single", "ensemble"]

CLIP_NAMES_FILE = "coco_stuff_171_names.txt"
CLIP_BANK_FILE = "coco_stuff_171_vit_b16_{template}.npy"

SAME_THING = {
    "sky": "sky-other",  # COCO-Stuff's "-other" is what none of its finer names says: sky without clouds, here
    "building": "building-other",
    "purse": "handbag",  # beside a wallet, as in American English
}
"""COCO-Stuff's names for things that a data set calls otherwise."""

ONLY_NEAR = {
    "pole": "parking meter",  # what COCO-Stuff has of posts at the roadside; the farthest of these
    "sign symbol": "stop sign",  # one of many signs
    "pedestrian": "person",  # on foot in a street
    "bicyclist": "bicycle",  # without who rides it, as the person is the pedestrian's
}
"""COCO-Stuff's names nearest to classes that it has no name for."""


@dataclass(frozen=True)
class ClipCoverage:
    """Which classes CLIP's embeddings of COCO-Stuff's names can stand for.

    Attributes:
        exact: class names that COCO-Stuff has too.
        same_thing: COCO-Stuff's names of the same thing by class name.
        only_near: the nearest of COCO-Stuff's names by class name.
        missing: class names with no name near.
    """

    exact: tuple[str, ...]
    same_thing: dict[str, str]
    only_near: dict[str, str]
    missing: tuple[str, ...]


def shuffled(bank: Tensor, seed: int) -> Tensor:
    """The rows dealt out to the classes so that no class keeps its own; each such way is equally likely.

    Args:
        bank: (K, T) embeddings.
        seed: of the order, which depends on nothing else but K.

    Returns:
        (K, T) the same rows in another order.

    Raises:
        ValueError: if the bank is no (K, T), or of one class, which no other row is left for.
    """
    if bank.ndim != 2 or len(bank) < 2:
        raise ValueError(
            f"a bank of shape {tuple(bank.shape)} cannot be dealt out anew; pass one of (K, T) with K of 2 or more"
        )
    generator = torch.Generator().manual_seed(seed)
    own = torch.arange(len(bank))
    while True:  # about one order of e is such a one
        order = torch.randperm(len(bank), generator=generator)
        if (order != own).all():
            return bank[order]


def random_bank(like: Tensor, seed: int) -> Tensor:
    """Random unit vectors, uniform on the sphere, in the shape of a bank (..., T), float32."""
    return F.normalize(torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def write_bank(path: Path, embeddings: Tensor, class_names: Sequence[str], source: str) -> None:
    """Write a bank as ``trainers.text.text_bank`` does.

    Args:
        path: the ``.safetensors`` file.
        embeddings: (K, T).
        class_names: the K names that it is for, in the order of its rows.
        source: what the embeddings come from, in words.

    Raises:
        ValueError: if there is not one row for each name.
    """
    if embeddings.ndim != 2 or len(embeddings) != len(class_names):
        raise ValueError(
            f"a bank of shape {tuple(embeddings.shape)} does not fit {len(class_names)} class names; pass one row for "
            "each"
        )
    metadata = {"class_names": json.dumps(list(class_names)), "model": source}
    save_file({"text_embeddings": embeddings.contiguous()}, path, metadata=metadata)


def clip_coverage(class_names: Sequence[str], folder: Path) -> ClipCoverage:
    """Which of the classes the folder has an embedding for.

    Args:
        class_names: the K names.
        folder: where CLIP's embeddings lie.

    Raises:
        FileNotFoundError: if the folder lacks the list of names.
    """
    known = set(read_class_names(folder / CLIP_NAMES_FILE))
    exact = tuple(name for name in class_names if name in known)
    same_thing = _translated(class_names, SAME_THING, known)
    only_near = _translated(class_names, ONLY_NEAR, known)
    found = {*exact, *same_thing, *only_near}
    missing = tuple(name for name in class_names if name not in found)
    return ClipCoverage(exact, same_thing, only_near, missing)


def clip_bank(class_names: Sequence[str], folder: Path, *, template: ClipTemplate = "ensemble") -> Tensor:
    """CLIP's text embeddings of the classes, or of what is nearest to them, as `clip_coverage` has it.

    Args:
        class_names: the K names.
        folder: where CLIP's embeddings lie.
        template: "single" is one sentence around each name, "ensemble" the mean of many.

    Returns:
        (K, T) of unit norm, float32, no two rows of one name.

    Raises:
        FileNotFoundError: if the folder lacks a file.
        ValueError: if some class has no name near, two have the same, or the files do not fit each other.
    """
    coverage = clip_coverage(class_names, folder)
    if coverage.missing:
        raise ValueError(
            f"CLIP's embeddings of COCO-Stuff's names have none for {len(coverage.missing)} of {len(class_names)} "
            f"classes ({', '.join(coverage.missing)}); take a data set that they cover, or another source of text"
        )
    translation = coverage.same_thing | coverage.only_near
    known_as = [translation.get(name, name) for name in class_names]
    shared = [name for name, known in zip(class_names, known_as, strict=True) if known_as.count(known) > 1]
    if shared:
        raise ValueError(
            f"the classes {', '.join(shared)} would share an embedding, so that the text could not tell them apart; "
            "take another source of text"
        )
    names = read_class_names(folder / CLIP_NAMES_FILE)
    embeddings = load_embeddings(folder / CLIP_BANK_FILE.format(template=template))
    if embeddings.ndim != 2 or len(embeddings) != len(names):
        raise ValueError(
            f"{folder} holds embeddings of shape {tuple(embeddings.shape)} for {len(names)} names; take files with one "
            "row for each name"
        )
    return F.normalize(embeddings[[names.index(name) for name in known_as]], dim=-1)


def _translated(class_names: Sequence[str], table: dict[str, str], known: set[str]) -> dict[str, str]:
    return {name: table[name] for name in class_names if name not in known and table.get(name) in known}


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line) and writes a bank of CLIP's embeddings."""
    parser = ArgumentParser(prog="python -m benchmarks.text_sources", description="Writes CLIP's text for classes.")
    parser.add_argument("--clip_text", type=Path, required=True, help=f"Folder with {CLIP_NAMES_FILE} and the arrays.")
    parser.add_argument("--classes", type=Path, required=True, help="File with one class name a line.")
    parser.add_argument("--output", type=Path, required=True, help="The .safetensors file to write.")
    options = parser.parse_args(arguments)
    with user_errors():
        class_names = read_class_names(options.classes)
        embeddings = clip_bank(class_names, options.clip_text)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_bank(options.output, embeddings, class_names, "CLIP ViT-B/16, names of COCO-Stuff")
    print(f"wrote {tuple(embeddings.shape)} embeddings to {options.output}")


if __name__ == "__main__":
    main()
