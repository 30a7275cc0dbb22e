"""Text that knows nothing of the classes, made of a configuration's own: what is gained over it, meaning brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor

from benchmarks.text_sources import orthogonal_bank, random_bank, shuffled, write_bank
from trainers.assemble import bank_file, create_dataset
from trainers.foundation.errors import UserError, user_errors
from trainers.options.config import Config
from trainers.text.text_bank import load_text_bank

Control = Literal["shuffled", "random", "orthogonal"]
CONTROLS: Final[Mapping[Control, Callable[[Tensor, int], Tensor]]] = {
    "shuffled": shuffled,
    "random": random_bank,
    "orthogonal": orthogonal_bank,
}
"""How each is made of a bank and a seed."""
CONTROL_SEED: Final = 0
"""All trainings have the same."""


def write_controls(config: Config, folder: Path, names: Sequence[Control]) -> dict[str, Path]:
    """Writes them, and gives the files by name.

    Args:
        config: whose bank they are made of.
        folder: of the files.
        names: which.

    Raises:
        UserError: There is no such control, or no bank of one row a class to make them of, or the folder's are of
            another one.
    """
    if unknown := [name for name in names if name not in CONTROLS]:
        raise UserError(f"There is no text {unknown[0]!r} to compare with; choose among {', '.join(CONTROLS)}.")
    files: dict[str, Path] = {name: folder / f"{name}.safetensors" for name in names}
    if not files:
        return files
    with user_errors():
        class_names = create_dataset(config.data, config.data.train_split).class_names
        bank = load_text_bank(bank_file(config), class_names)
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in zip(names, files.values(), strict=True):
            embeddings = CONTROLS[name](bank, CONTROL_SEED)
            if not file.exists():
                write_bank(file, embeddings, class_names, f"{name}, of {bank_file(config).name}")
            elif not torch.equal(load_text_bank(file, class_names), embeddings):
                raise UserError(f"{file} is of other text than {bank_file(config)}; choose another --output.")
    return files
