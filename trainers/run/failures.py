"""What can go wrong in the middle of a run, as one sentence that says how to go on."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.distributed import DistError

from trainers.foundation.errors import UserError
from trainers.run.checkpoints import LAST, PREVIOUS

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_NO_MEMORY = re.compile(r"DefaultCPUAllocator|\bout of memory\b|\w+_ALLOC_FAILED\b|std::bad_alloc")
"""What is said by those who have no exception of their own: allocators of CPUs, drivers, libraries of the GPU."""


@contextmanager
def run_failures(folder: Path) -> Iterator[None]:
    """Turns what the machine refuses a run into a `UserError`, and adds to each where the run can go on.

    Args:
        folder: The run's.

    Raises:
        UserError: The memory or the disk is full, a folder has vanished, or what a `UserError` inside says.
    """
    try:
        yield
    except (UserError, MemoryError, RuntimeError, OSError) as error:
        sentence = _explain(error)
        if sentence is None:
            raise
        print(file=sys.stderr)  # the progress bar has left its line open
        raise UserError(f"{sentence} {_how_to_go_on(folder)}") from error


def _explain(error: Exception) -> str | None:
    """What has happened and what to do about it; ``None`` of a mistake of the program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        full = error.errno in _NO_SPACE
        return f"The run stopped at {error}: {'free space on its disk' if full else 'put right what it names'}."
    if is_out_of_memory(error):
        return (
            "The memory is full: raise --train.accumulate, set --train.gradient_checkpointing true, "
            "--model.recompute true or --train.precision bf16, or lower --data.crop_size, --loss.num_points or "
            "--train.batch_size."
        )
    if isinstance(error, DistError) or "Connection closed by peer" in str(error):
        return "Another process of the run has ended: see what it says."
    if "DataLoader worker" in str(error):
        return (
            "A process that reads images has died: it was killed, or the memory is full; lower --data.num_workers if "
            "it happens again."
        )
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether what an error says is that there is no more memory, of whatever device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY.search(str(error)) is not None


def _how_to_go_on(folder: Path) -> str:
    for name in (LAST, PREVIOUS):
        if (folder / name).exists():
            return (
                f"{folder / name} is intact: the same command goes on from it, with --train.resume always also under "
                "other options."
            )
    return "There is no checkpoint yet: the same command begins anew."
