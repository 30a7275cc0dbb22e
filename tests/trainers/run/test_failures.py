from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from tests.trainers.tiny_runs import TINY, failure, write_folder
from trainers import train
from trainers.foundation.errors import UserError
from trainers.run.checkpoints import load_checkpoint
from trainers.run.failures import run_failures
from trainers.run.progress import Progress


def too_large_for_any_memory() -> None:
    torch.empty(2**50)


def full_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "events.out")


def lost_process() -> None:
    raise RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711")


def dead_worker() -> None:
    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")


def worker_without_shared_memory() -> None:
    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is out of shared memory.")


def driver_without_memory() -> None:
    raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")


def products_without_memory() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def convolutions_without_memory() -> None:
    raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")


def other_library_without_memory() -> None:
    raise RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED")


def other_device_without_memory() -> None:
    raise RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB, other allocations: 0 bytes)")


@pytest.mark.parametrize(
    ("fail", "said"),
    [
        (too_large_for_any_memory, "The memory is full: raise --train.accumulate"),
        (driver_without_memory, "The memory is full: raise --train.accumulate"),
        (products_without_memory, "The memory is full: raise --train.accumulate"),
        (convolutions_without_memory, "The memory is full: raise --train.accumulate"),
        (other_library_without_memory, "The memory is full: raise --train.accumulate"),
        (other_device_without_memory, "The memory is full: raise --train.accumulate"),
        (full_disk, "No space left on device: 'events.out': free space on its disk."),
        (lost_process, "Another process of the run has ended: see what it says."),
        (dead_worker, "A process that reads images has died"),
        (worker_without_shared_memory, "A process that reads images has died"),
    ],
)
def test_what_the_machine_refuses_is_a_sentence(tmp_path: Path, fail: object, said: str) -> None:
    with pytest.raises(UserError) as failed, run_failures(tmp_path):
        fail()  # type: ignore[operator]
    assert said in str(failed.value)
    assert str(failed.value).endswith("There is no checkpoint yet: the same command begins anew.")
    (tmp_path / "last.pt").touch()
    with pytest.raises(UserError, match=r"last\.pt is intact: the same command goes on"), run_failures(tmp_path):
        fail()  # type: ignore[operator]


def test_a_mistake_of_the_program_stays_one(tmp_path: Path) -> None:
    for mistake in ("shapes do not match", "CUDA error: CUBLAS_STATUS_INVALID_VALUE", "CUDA error: device-side assert"):
        with pytest.raises(RuntimeError, match=mistake), run_failures(tmp_path):
            raise RuntimeError(mistake)


def test_a_data_folder_that_vanishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "data", labels=[0, 1])
    after = Progress.__call__

    def vanish(progress: Progress, trainer: Engine) -> None:
        after(progress, trainer)
        if trainer.state.iteration == 2:
            shutil.move(tmp_path / "data", tmp_path / "elsewhere")

    data = ["--data.dataset", "folder", "--data.root", str(tmp_path / "data")]
    options = [*TINY, "--model.arch", "unet", "--train.output", str(tmp_path / "run"), *data]
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "__call__", vanish)
        line = failure(train.main, options, capsys)
    assert str(tmp_path / "data") in line and "the same command goes on from it" in line
    assert load_checkpoint(tmp_path / "run" / "last.pt").iteration == 2
    shutil.move(tmp_path / "elsewhere", tmp_path / "data")
    train.main(options)
    assert load_checkpoint(tmp_path / "run" / "last.pt").iteration == 4
