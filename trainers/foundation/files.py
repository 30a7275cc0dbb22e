"""Files of tensors that are either whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from trainers.foundation.errors import UserError


def save_whole(content: dict[str, Any], path: Path, *, previous: Path | None = None) -> None:
    """Writes ``path`` so that a crash at any moment leaves the old file or the new one, never a part of it.

    Args:
        content: What `torch.save` writes.
        path: Where to.
        previous: Where the file goes that was there before; if not given, it is replaced.

    Raises:
        UserError: It cannot be written; what was there before still is.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        partial.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer has errors of its own for a full disk
        partial.unlink(missing_ok=True)
        raise UserError(
            f"{path} could not be written ({' '.join(str(error).split())}); free space on its disk, or choose another "
            "folder; the checkpoints that were there before still are."
        ) from error


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder as durable as the files behind them, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
