"""Reads the options and measures part after part: ``python -m benchmarks.gpu [--minutes 12] [--quick]``."""

from __future__ import annotations

import sys
import time
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.comparison.options import comma_separated
from benchmarks.gpu.bench import Bench, Outcome, sentence
from benchmarks.gpu.images import measure_images
from benchmarks.gpu.page import Page
from benchmarks.gpu.parity import check_all, check_compiled
from benchmarks.gpu.sampling import measure_sampling
from benchmarks.gpu.steps import measure_compiled_steps, measure_steps
from benchmarks.gpu.trainings import train_heads
from benchmarks.gpu.waits import count_waits
from benchmarks.report import QUICK_RESULTS, RESULTS, Section
from trainers.engine.forward import resolve_device
from trainers.foundation.errors import UserError, main_guard, user_errors

PARTS = {
    "parity": "The same as on a CPU",
    "sampling": "The kernel in Triton",
    "waits": "Waits",
    "steps": "Training steps",
    "images": "Images",
    "compiled": "Compiled: the same as it was",
    "compiled_steps": "Compiled: training steps",
    "compiled_images": "Compiled: images",
    "trainings": "Trainings",
}


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line), and measures; each part is written when it is there."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = ArgumentParser(prog="python -m benchmarks.gpu", description="All that is to be known of a GPU.")
    parser.add_argument("--minutes", type=float, default=12.0, help="About how long it may take.")
    parser.add_argument("--quick", action="store_true", help="All of it small and on the CPU: whether it runs.")
    parser.add_argument("--device", default="cuda", help="The device, e.g. cuda:1.")
    parser.add_argument("--parts", type=comma_separated, default=tuple(PARTS), help=f"Among {', '.join(PARTS)}.")
    parser.add_argument("--output", type=Path, help=f"Folder; {RESULTS.name}, but with --quick {QUICK_RESULTS}.")
    options = parser.parse_args(given)
    if unknown := [name for name in options.parts if name not in PARTS]:
        raise UserError(f"There is no part {unknown[0]!r}; choose among {', '.join(PARTS)}.")
    if not options.quick and not torch.cuda.is_available():
        raise UserError("There is no GPU that torch can use here; --quick runs all of it small on the CPU.")
    folder = options.output or (QUICK_RESULTS if options.quick else RESULTS)
    with user_errors():
        device = resolve_device("cpu" if options.quick else options.device)
    bench = Bench(device, quick=options.quick, seconds=60 * options.minutes)
    measure: dict[str, Callable[[Bench], Outcome]] = {
        "parity": check_all,
        "sampling": measure_sampling,
        "waits": count_waits,
        "steps": measure_steps,
        "images": measure_images,
        "compiled": check_compiled,
        "compiled_steps": measure_compiled_steps,
        "compiled_images": partial(measure_images, compiled=True),
        "trainings": partial(train_heads, folder=folder / "gpu_camvid"),
    }
    page = Page(folder, " ".join(["python -m benchmarks.gpu", *given]), PARTS)
    for name in PARTS:
        if name in options.parts:
            print(f"{name}, {bench.left:.0f} s left", file=sys.stderr, flush=True)
            start = time.monotonic()
            try:
                outcome = measure[name](bench)
            except Exception as error:  # the other parts have something to say, whatever it was
                traceback.print_exc()
                outcome = Outcome((Section("Failed", ("what", "why"), [(name, sentence(error))]),))
            page.add(name, outcome, seconds=time.monotonic() - start)
    print(page.to_markdown())


if __name__ == "__main__":
    main()
