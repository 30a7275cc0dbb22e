"""Banks of text embeddings that differ in what they know of the classes, for the ablation of the text's part.

``python -m benchmarks.text_sources --clip_text DIR,FILE --classes FILE --output FILE`` writes one of CLIP's.

A bank with its rows dealt out anew has the same rows, but tells nothing true of a class; a random one tells nothing at
all, and an orthogonal one nothing either but that all classes are alike far apart; one of CLIP's own embeddings knows
what the classes look like.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from benchmarks.clip_text import clip_bank, clip_coverage, joined, load_named_text
from benchmarks.comparison.options import comma_separated
from trainers.data.class_list import read_class_names
from trainers.foundation.errors import main_guard, user_errors


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


def orthogonal_bank(like: Tensor, seed: int) -> Tensor:
    """Random unit vectors in the shape of a bank (K, T), each at a right angle to all others, float32.

    Raises:
        ValueError: if there are more classes than numbers to each.
    """
    if like.ndim != 2 or like.shape[0] > like.shape[1]:
        raise ValueError(f"no {tuple(like.shape)} vectors are at right angles to each other; T must be K at least")
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(like.shape, generator=generator).T).Q.T.contiguous()


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


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line), writes a bank and says by which names the classes go."""
    parser = ArgumentParser(prog="python -m benchmarks.text_sources", description="Writes CLIP's text for classes.")
    parser.add_argument(
        "--clip_text",
        type=comma_separated,
        required=True,
        help="Embeddings of one CLIP model with their names: .safetensors files, or a folder of COCO-Stuff's.",
    )
    parser.add_argument("--classes", type=Path, required=True, help="File with one class name a line.")
    parser.add_argument("--output", type=Path, required=True, help="The .safetensors file to write.")
    options = parser.parse_args(arguments)
    with user_errors():
        class_names = read_class_names(options.classes)
        text = joined([load_named_text(Path(path)) for path in options.clip_text])
        embeddings = clip_bank(class_names, text)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        names = ", ".join(Path(path).stem for path in options.clip_text)
        write_bank(options.output, embeddings, class_names, f"CLIP's embeddings of {names}")
    coverage = clip_coverage(class_names, text)
    for kind, pairs in (("the same thing", coverage.same_thing), ("only near", coverage.only_near)):
        if pairs:
            print(f"{kind}: {', '.join(f'{name} as {known}' for name, known in pairs.items())}")
    print(f"wrote {tuple(embeddings.shape)} embeddings to {options.output}")


if __name__ == "__main__":
    main()
