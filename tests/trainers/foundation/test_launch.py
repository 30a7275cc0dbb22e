from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainers.tiny_runs import failure
from trainers import evaluate, predict
from trainers.foundation.launch import joined_processes, launched_processes

SLURM_TASK = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "1",
    "SLURM_JOB_NODELIST": "localhost",
    "SLURM_JOB_NUM_NODES": "1",
}
"""What srun tells the one task of a node."""
RANK = (
    "import os, sys, ignite.distributed as idist\n"
    "from pathlib import Path\n"
    "from trainers.foundation.launch import joined_processes\n"
    "with joined_processes('cpu'):\n"
    "    said = f\"of {idist.get_world_size()} {os.environ['SLURM_JOB_ID']}\"\n"
    "    Path(sys.argv[1], f'rank {idist.get_rank()}').write_text(said)\n"
)
"""Writes a file a rank: what two processes print on one pipe comes out mixed."""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    return monkeypatch


def test_who_started_how_many(environment: pytest.MonkeyPatch) -> None:
    assert launched_processes() == 1
    environment.setenv("SLURM_NTASKS", "4")
    assert launched_processes() == 1  # within an allocation, but not by srun
    environment.setenv("SLURM_STEP_ID", "0")
    assert launched_processes() == 4
    environment.setenv("WORLD_SIZE", "2")
    assert launched_processes() == 2


def test_alone_a_process_joins_nobody(environment: pytest.MonkeyPatch) -> None:
    with joined_processes("cpu"):
        assert "RANK" not in os.environ


@pytest.mark.parametrize("tasks", [1, 2])
def test_torchrun_under_srun_has_torchruns_ranks(tasks: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
    slurm = SLURM_TASK | {"SLURM_NTASKS": str(tasks), "SLURM_JOB_NUM_NODES": str(tasks)}
    command = [*command, sys.executable, "-c", RANK, str(tmp_path)]
    done = subprocess.run(command, env=os.environ | slurm, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"rank 0": "of 2 7", "rank 1": "of 2 7"}


@pytest.mark.parametrize("command", [predict, evaluate])
def test_commands_of_one_process_refuse_several(
    command: object, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("WORLD_SIZE", "8")
    options = ["--checkpoint=x.pt"] + (["--output=x", "x.png"] if command is predict else [])
    message = failure(command.main, options, capsys)  # type: ignore[attr-defined]
    assert "works in one process, and 8 were started" in message
