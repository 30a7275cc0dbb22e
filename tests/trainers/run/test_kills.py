"""Runs that are killed at any moment, and started again by the same command, end as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor

from tests.trainers.joint_sets import write_sets
from tests.trainers.tiny_runs import MTACLIP, TINY, run_training
from trainers.run.checkpoints import load_checkpoint
from trainers.run.validation import Validation

Moment = Literal["any", "writing"]

OPTIONS = [
    *TINY,
    *MTACLIP,
    "--train.iterations=12",
    "--train.validate_every=3",
    "--train.checkpoint_every=1",
    "--train.ema_decay=0.9",
]
"""Four epochs of three batches; a checkpoint after each step, so that many moments are those of writing one."""


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """A run in a process of its own; comes back when it is about to train, or has nothing to do any more."""
    command = [sys.executable, "-u", "-m", "trainers.train", *OPTIONS, "--train.output", str(folder), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def kill(process: subprocess.Popen[str], folder: Path, moment: Moment, delay: float) -> bool:
    """Kills a run after ``delay`` seconds, or then when it writes a checkpoint; ``False`` if it was over before."""
    time.sleep(delay)
    while moment == "writing" and process.poll() is None and not list(folder.glob("*.partial")):
        time.sleep(1e-4)
    killed = process.poll() is None
    process.kill()
    process.wait()
    return killed


def differences(first: Any, second: Any, place: str = "") -> list[str]:
    """Where two checkpoints differ by as much as a bit."""
    if isinstance(first, Tensor):
        return [] if torch.equal(first, second) else [place]
    if isinstance(first, Mapping):
        assert first.keys() == second.keys()
        return [found for key in first for found in differences(first[key], second[key], f"{place}/{key}")]
    if isinstance(first, list | tuple):
        assert len(first) == len(second)
        pairs = enumerate(zip(first, second, strict=True))
        return [found for key, pair in pairs for found in differences(*pair, f"{place}/{key}")]
    return [] if repr(first) == repr(second) else [place]  # not a number is not equal to itself


def check_kills(tmp_path: Path, moments: list[Moment], *options: str, workers: int, seed: int) -> None:
    rng, options = random.Random(seed), (*options, f"--data.num_workers={workers}")
    begin = time.perf_counter()
    whole = start(tmp_path / "whole", *options)
    begin_training = time.perf_counter()
    assert whole.wait() == 0
    length = time.perf_counter() - begin_training
    kills, folder = 0, tmp_path / "killed"
    remaining = list(moments)
    while remaining:
        process = start(folder, *options)
        if kill(process, folder, remaining[0], rng.uniform(0, length / 2)):
            kills += 1
            remaining.pop(0)
        else:  # it came to its end: begin anew, to be killed some more
            for file in [*folder.glob("*.pt"), *folder.glob("*.partial")]:
                file.unlink()
    assert start(folder, *options).wait() == 0
    found = [
        f"{name}{place}"
        for name in ("last.pt", "best.pt")
        for place in differences(
            *(vars(load_checkpoint(tmp_path / run / name)) | {"config": None} for run in ("whole", "killed"))
        )
    ]
    print(f"{kills} kills with {workers} workers in {time.perf_counter() - begin:.0f} s, {len(found)} differences")
    assert kills == len(moments) and not found, found


@pytest.mark.parametrize(("workers", "moments"), [(0, ["any"]), (2, ["writing", "any"])])
def test_a_killed_run_ends_bit_equal(tmp_path: Path, workers: int, moments: list[Moment]) -> None:
    check_kills(tmp_path, moments, workers=workers, seed=1)


def test_a_killed_run_on_several_data_sets_ends_bit_equal(tmp_path: Path) -> None:
    sets = write_sets(tmp_path)
    data = [f"--data.sets={sets}", f"--data.root={tmp_path}", "--model.text_encoder=null"]
    check_kills(tmp_path, ["writing"], *data, workers=2, seed=2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_ten_times_ends_bit_equal(tmp_path: Path, workers: int) -> None:
    moments: list[Moment] = ["any", "any", "writing", "any", "any"] * 2
    check_kills(tmp_path, moments, workers=workers, seed=random.randrange(10**6))


@pytest.mark.parametrize("at", [2, 4])
def test_a_stop_within_a_validation_makes_up_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at: int
) -> None:
    """The first validation, whose evaluator has no metrics before it ends, and the last."""
    whole = load_checkpoint(run_training(tmp_path / "whole", *MTACLIP) / "last.pt")
    look = Validation._stop

    def stop(validation: Validation, evaluator: Engine) -> None:
        validation.interruption.requested = saved_iteration(tmp_path / "cut") + 2 == at
        look(validation, evaluator)

    monkeypatch.setattr(Validation, "_stop", stop)
    cut = load_checkpoint(run_training(tmp_path / "cut", *MTACLIP) / "last.pt")
    assert f"Stopped after iteration {at}" in capsys.readouterr().out
    assert (cut.iteration, cut.validation.iteration) == (at, at - 2)
    monkeypatch.setattr(Validation, "_stop", look)
    again = load_checkpoint(run_training(tmp_path / "cut", *MTACLIP) / "last.pt")
    assert repr(again.validation) == repr(whole.validation)  # whose NaN are equal so
    assert differences(again.model, whole.model) == []


def saved_iteration(folder: Path) -> int:
    """Iterations of the run's last checkpoint; 0 before the first."""
    return load_checkpoint(folder / "last.pt").iteration if (folder / "last.pt").exists() else 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_saves_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path / "run", "--data.num_workers=2", "--train.iterations=400", "--train.validate_every=400")
    while not (tmp_path / "run" / "last.pt").exists():
        time.sleep(0.01)
    process.send_signal(number)
    assert process.stdout is not None
    said = process.stdout.read()
    assert process.wait() == 0
    done = load_checkpoint(tmp_path / "run" / "last.pt").iteration
    assert 1 <= done < 400 and f"Stopped after iteration {done}; the same command goes on from there." in said
