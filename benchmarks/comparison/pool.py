"""Trains the trials of a comparison that are missing, several at a time."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from threading import Thread

import torch
from tqdm import tqdm

from benchmarks.comparison.datasets import usable_dataset
from benchmarks.comparison.records import Record
from benchmarks.comparison.trials import LOG_FILE, RUNS, StoppedError, Trial, train_trial

STOPPED = "Stopped; the same command goes on with the trainings that are missing."


def run_trials(trials: Sequence[Trial], folder: Path, *, jobs: int, keep: Sequence[Trial] = ()) -> list[str]:
    """Trains what has no record yet.

    A trial that fails does not stop the others. Each record is written as soon as it is there, and a training that was
    cut off goes on from its last checkpoint, so the same call goes on with what is missing.

    Args:
        trials: what to train; equal ones are trained once.
        folder: where records, logs and checkpoints lie.
        jobs: processes that train at the same time; they share the machine's cores.
        keep: trials whose last checkpoints are kept.

    Returns:
        A sentence for each trial that failed.

    Raises:
        StoppedError: A training was asked to stop.
        UserError: The data must be put right first.
    """
    kept = {trial.key for trial in keep}
    missing = {trial.key: trial for trial in trials if trial.load_record(folder) is None}
    if not missing:
        return []
    data = trials[0].config.data
    for split in (data.train_split, data.val_split):
        usable_dataset(data, split, folder)  # reads all pictures once, rather than once for each training
    return _train_all(list(missing.values()), folder, jobs=jobs, kept=kept)


def _train_all(trials: Sequence[Trial], folder: Path, *, jobs: int, kept: set[str]) -> list[str]:
    """Trains; gives a sentence for each that failed."""
    failures = []
    trained = _train_here if jobs == 1 else _train_in_workers
    bar = tqdm(trained(trials, folder, jobs=jobs, kept=kept), total=len(trials), desc="trainings")
    for trial, outcome in bar:
        where = f"{trial.contender} on {trial.encoder}, seed {trial.config.train.seed}"
        if isinstance(outcome, Record):
            bar.write(f"{where}: mIoU {_percent(outcome)}", file=sys.stderr)
        else:
            failures.append(f"{where}: {outcome} (see {folder / RUNS / trial.key / LOG_FILE})")
            bar.write(f"failed: {failures[-1]}", file=sys.stderr)
    return failures


def _train_here(
    trials: Sequence[Trial], folder: Path, *, jobs: int, kept: set[str]
) -> Iterator[tuple[Trial, Record | BaseException]]:
    """Trains one after the other in this process."""
    for trial in trials:
        try:
            outcome: Record | BaseException = train_trial(trial, folder, keep=trial.key in kept)
        except (KeyboardInterrupt, StoppedError):
            raise StoppedError(STOPPED) from None
        except Exception as error:
            outcome = error
        yield trial, outcome


def _train_in_workers(
    trials: Sequence[Trial], folder: Path, *, jobs: int, kept: set[str]
) -> Iterator[tuple[Trial, Record | BaseException]]:
    """Trains several at a time, each in a process of its own."""
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    threads = max(1, torch.get_num_threads() // jobs)  # which knows the cores that this process was given
    with ProcessPoolExecutor(jobs, context, _start_worker, (threads,)) as pool:
        futures = {pool.submit(train_trial, trial, folder, keep=trial.key in kept): trial for trial in trials}
        try:
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, StoppedError):
                    raise error
                yield futures[future], error or future.result()
        except (KeyboardInterrupt, StoppedError):
            pool.shutdown(cancel_futures=True)
            raise StoppedError(STOPPED) from None


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, or it would train on beside the next command's.

    What it has saved is whole: a checkpoint is either the old or the new one.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _percent(record: Record) -> str:
    value = record.scores.mean_iou
    return "unknown" if value is None else f"{100 * value:.1f}"
