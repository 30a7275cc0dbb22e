"""The compiled model: the same numbers, steps and images; by itself and late, as a compiler may take minutes."""

from __future__ import annotations

from benchmarks.gpu.bench import Bench, Outcome
from benchmarks.gpu.images import measure_images
from benchmarks.gpu.parity import check_compiled
from benchmarks.gpu.steps import measure_compiled_steps


def measure_compiled(bench: Bench) -> Outcome:
    """Checks and measures what there is time for."""
    outcomes = [check_compiled(bench), measure_compiled_steps(bench), measure_images(bench, compiled=True)]
    return Outcome(
        sections=tuple(section for outcome in outcomes for section in outcome.sections),
        numbers=[outcome.numbers for outcome in outcomes],
        bars={title: bars for outcome in outcomes for title, bars in outcome.bars.items()},
    )
