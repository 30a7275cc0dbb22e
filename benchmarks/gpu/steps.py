"""A training step at several sizes beside transformers' Mask2Former: seconds and memory, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch

from benchmarks import peers
from benchmarks.gpu.bench import Bench, Outcome, sentence
from benchmarks.gpu.parity import compile_backend
from benchmarks.measure import MEBIBYTE, time_in_turn
from benchmarks.peers import Contender, Scene
from benchmarks.report import Section
from mtaclip_plugin.decoder.deformable.triton_sampling import use_triton, uses_triton

OURS, MASK2FORMER, ENCODER = "mtaclip", "Mask2Former", "encoder alone"
ROUNDS = 10
LEAST_SECONDS = 45.0
"""Left for a row to be begun: a compiled one takes about as long."""


@dataclass(frozen=True)
class Step:
    """One row of the table.

    Attributes:
        model: whose step it is.
        batch: images.
        side: of an image, in pixels.
        precision: "float32" or "bf16".
        compiled: whether the model is.
        triton: whether it samples by the kernel.
        seconds: the median; ``None`` where it could not be measured.
        peak: bytes at most; ``None`` where there are no such counts.
        problem: why it could not be measured.
    """

    model: str
    batch: int
    side: int
    precision: str
    compiled: bool = False
    triton: bool = False
    seconds: float | None = None
    peak: int | None = None
    problem: str = ""


def measure_steps(bench: Bench) -> Outcome:
    """Measures what there is time for, the sizes that matter most first."""
    steps: list[Step] = []
    for row in _rows(bench):
        steps.append(_measured(row, bench))
        print(steps[-1], flush=True)
    sections = tuple(
        _section(side, batch, [step for step in steps if (step.side, step.batch) == (side, batch)], on_gpu=bench.on_gpu)
        for side, batch in dict.fromkeys((step.side, step.batch) for step in steps)
    )
    side, batch = next((step.side, step.batch) for step in reversed(steps) if step.compiled)
    shown = [step for step in steps if (step.side, step.batch) == (side, batch) and step.seconds is not None]
    bars = {f"{_name(step)}, {step.precision}": 1000 * step.seconds for step in shown if step.seconds is not None}
    return Outcome(
        sections, [asdict(step) for step in steps], {f"a training step, {batch} images of {side}x{side}, ms": bars}
    )


def _rows(bench: Bench) -> Iterator[Step]:
    sizes = [(64, 2)] if bench.quick else [(512, 2), (512, 16), (512, 8), (1024, 2), (1024, 8), (1024, 16)]
    for side, batch in sizes:
        for precision in ("bf16", "float32"):
            for model in (ENCODER, MASK2FORMER, OURS):
                yield Step(model, batch, side, precision)
        if side == sizes[0][0] and batch != 8:
            if bench.on_gpu:
                yield Step(OURS, batch, side, "bf16", triton=True)
            yield Step(OURS, batch, side, "bf16", compiled=True)


def _measured(step: Step, bench: Bench) -> Step:
    """The row with what was measured, or with why it was not."""
    if step.model == MASK2FORMER and not peers.has_transformers():
        return replace(step, problem="transformers is not installed")
    if bench.left < LEAST_SECONDS:
        return replace(step, problem="no time left")
    builders: dict[str, Callable[[Scene], Contender]] = {
        OURS: peers.mtaclip,
        MASK2FORMER: peers.mask2former,
        ENCODER: peers.bare_encoder,
    }
    before = uses_triton()
    try:
        if step.triton:
            use_triton()
        scene = Scene.random(batch=step.batch, side=step.side, num_classes=bench.num_classes, device=str(bench.device))
        contender = builders[step.model](scene)
        contender.model.train()
        if step.compiled:
            contender.model.compile(dynamic=False, backend=compile_backend(bench))
        run = partial(contender.step, bf16=step.precision == "bf16")
        bench.forget_peak()
        seconds = time_in_turn({step.model: run}, 1 if bench.quick else ROUNDS, title=_name(step))
        peak = torch.cuda.max_memory_allocated(bench.device) if bench.on_gpu else None
        return replace(step, seconds=seconds.median(step.model), peak=peak)
    except Exception as error:  # the other rows have something to say, whatever it was
        return replace(step, problem=sentence(error))
    finally:
        use_triton(before)
        bench.free()


def _name(step: Step) -> str:
    return f"{step.model}{', kernel in Triton' * step.triton}{', compiled' * step.compiled}"


def _section(side: int, batch: int, steps: list[Step], *, on_gpu: bool) -> Section:
    rows = []
    for step in steps:
        alike = {
            other.model: other
            for other in steps
            if other.precision == step.precision and not (other.compiled or other.triton)
        }
        peer, encoder = alike.get(MASK2FORMER), alike[ENCODER]
        cells = [_name(step), step.precision]
        if step.seconds is None:
            rows.append([*cells, step.problem, "", "", "", "", ""])
            continue
        ratio = above = above_ratio = ""
        if peer is not None and peer.seconds is not None and step.model == OURS:
            ratio = f"{step.seconds / peer.seconds:.2f}"
        if step.peak is not None and encoder.peak is not None and step.model != ENCODER:
            above = f"{(step.peak - encoder.peak) / MEBIBYTE:.0f}"
            if step.model == OURS and peer is not None and peer.peak is not None:
                above_ratio = f"{(step.peak - encoder.peak) / (peer.peak - encoder.peak):.2f}"
        peak = "" if step.peak is None else f"{step.peak / MEBIBYTE:.0f}"
        speed = f"{1000 * step.seconds:.1f}", f"{batch / step.seconds:.1f}"
        rows.append([*cells, *speed, ratio, peak, above, above_ratio])
    columns = ("step", "precision", "ms", "images/s", f"to {MASK2FORMER}", "peak MiB", "above the encoder", "of its")
    note = f"Medians of {ROUNDS} steps: forward, loss and backward, without the optimizer's." if on_gpu else ""
    return Section(f"A training step: {batch} images of {side}x{side}", columns, rows, note)
