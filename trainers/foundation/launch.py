"""What started this process, and how many beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import ignite.distributed as idist
import torch

from trainers.foundation.errors import UserError

TIMEOUT: Final = timedelta(minutes=30)
"""How long processes wait for one another: longer than one may take to validate what another has done already."""


def launched_processes() -> int:
    """How many processes ``torchrun`` or SLURM's ``srun`` started; in an allocation, but by neither, it is one."""
    slurm = os.environ.get("SLURM_NTASKS", "1") if "SLURM_STEP_ID" in os.environ else "1"
    return int(os.environ.get("WORLD_SIZE", slurm))


def refuse_several_processes(command: str) -> None:
    """Ends a command that would do the same in each process.

    Raises:
        UserError: A launcher started several.
    """
    if (count := launched_processes()) > 1:
        raise UserError(f"{command} works in one process, and {count} were started; start it without a launcher.")


@contextmanager
def joined_processes(device: str) -> Iterator[None]:
    """In which the processes of a launcher, if there are several, know one another."""
    if launched_processes() == 1:
        yield
        return
    with _without_slurm():
        idist.initialize("nccl" if device != "cpu" and torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        idist.finalize()


@contextmanager
def _without_slurm() -> Iterator[None]:
    """Hides the job from ignite where ``torchrun`` is what ``srun`` started, once a node: ranks are torchrun's then."""
    job = os.environ.pop("SLURM_JOB_ID", None) if "TORCHELASTIC_RUN_ID" in os.environ else None
    try:
        yield
    finally:
        if job is not None:
            os.environ["SLURM_JOB_ID"] = job
