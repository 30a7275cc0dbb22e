"""On what, and how large, the parts of the program measure."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.measure import PairedSeconds, time_in_turn
from benchmarks.report import Section, error_sentence


@dataclass(frozen=True)
class Bench:
    """The device, the sizes, and the time that is left.

    Attributes:
        device: that is measured.
        quick: whether sizes are so small that a CPU does all of it in two minutes, for tests.
        seconds: all that the program may take.
        started: when it began, of `time.monotonic`.
    """

    device: torch.device
    quick: bool
    seconds: float
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.monotonic() - self.started)

    def has_time(self, *, to_compile: bool = False) -> bool:
        """Whether something more can be begun.

        Args:
            to_compile: whether it must be compiled first, which takes minutes on a GPU.
        """
        return self.left > (240 if to_compile and not self.quick else 20)

    @property
    def on_gpu(self) -> bool:
        """Whether waits and memory can be measured."""
        return self.device.type == "cuda"

    @property
    def num_classes(self) -> int:
        """K, ADE20K's number."""
        return 20 if self.quick else 150

    def free(self) -> None:
        """Gives back memory that nothing holds any more, compiled code too."""
        torch.compiler.reset()
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def forget_peak(self) -> None:
        """Counts memory from what is held now."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)


@dataclass(frozen=True)
class Outcome:
    """What one part of the program found.

    Attributes:
        sections: of the page.
        numbers: all that was measured, as JSON takes it.
        bars: of the figure by name, each a number in the unit that the title of the bars says.
    """

    sections: tuple[Section, ...]
    numbers: Any = None
    bars: dict[str, dict[str, float]] = field(default_factory=dict)


def time_what_runs(
    preparations: Mapping[str, Callable[[], Callable[[], object]]], rounds: int, *, title: str
) -> tuple[PairedSeconds, dict[str, str]]:
    """Times in turn what can be prepared, and says what went wrong with the rest.

    Args:
        preparations: what to call for each function that is timed, by name.
        rounds: see `time_in_turn`.
        title: likewise.

    Returns:
        The seconds of what ran, and the problem of each that did not. If one fails beside the others, as where memory
        is enough for each but not for all, none is timed.
    """
    runs: dict[str, Callable[[], object]] = {}
    problems: dict[str, str] = {}
    for name, prepare in preparations.items():
        try:
            runs[name] = prepare()
        except Exception as error:  # the others have something to say, whatever it was
            problems[name] = sentence(error)
    try:
        return time_in_turn(runs, rounds, title=title), problems
    except Exception as error:
        return PairedSeconds(()), dict.fromkeys(runs, sentence(error)) | problems


def sentence(error: BaseException) -> str:
    """What went wrong, for a cell of a table."""
    return "out of memory" if isinstance(error, torch.OutOfMemoryError) else error_sentence(error).replace("|", "/")
