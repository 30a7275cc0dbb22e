"""A training step at several sizes beside transformers' Mask2Former: seconds and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch

from benchmarks import peers
from benchmarks.gpu.bench import Bench, Outcome, time_what_runs
from benchmarks.gpu.parity import compile_backend
from benchmarks.measure import MEBIBYTE
from benchmarks.peers import Contender, Scene
from benchmarks.report import Section
from mtaclip_plugin.decoder.deformable.triton_sampling import samples_by_kernel, use_triton

MODELS = ENCODER, MASK2FORMER, OURS = "encoder alone", "Mask2Former", "mtaclip"
PRECISIONS = "bf16", "float32"
HEAD_WIDTH = 32
"""Of the paper's deformable attention."""
ROUNDS = 10


@dataclass(frozen=True)
class Step:
    """One row of the table.

    Attributes:
        model: whose step it is.
        batch: images.
        side: of an image, in pixels.
        precision: "float32" or "bf16".
        compiled: whether the model is.
        grid_sample: whether it samples by that, and not by the kernel in Triton, as it would.
        seconds: the median; ``None`` where it could not be measured.
        to_peer: the median of the quotients to the peer's seconds, which are measured in turn.
        peak: bytes at most, of this model alone; ``None`` where there are no such counts.
        problem: why it could not be measured.
    """

    model: str
    batch: int
    side: int
    precision: str
    compiled: bool = False
    grid_sample: bool = False
    seconds: float | None = None
    to_peer: float | None = None
    peak: int | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        """Of the row."""
        return f"{self.model}{', by grid_sample' * self.grid_sample}{', compiled' * self.compiled}"

    @property
    def is_plain(self) -> bool:
        """Whether it is neither compiled nor samples otherwise than by itself."""
        return not (self.compiled or self.grid_sample)


def measure_steps(bench: Bench) -> Outcome:
    """Measures what there is time for, the sizes that matter most first."""
    sizes = [(64, 2)] if bench.quick else [(512, 2), (512, 16), (512, 8), (1024, 2), (1024, 8), (1024, 16)]
    by_kernel = samples_by_kernel(bench.device, HEAD_WIDTH)
    groups = []
    for side, batch in sizes:
        for precision in PRECISIONS:
            rows = [Step(model, batch, side, precision) for model in MODELS]
            groups.append([*rows, *([replace(rows[-1], grid_sample=True)] if by_kernel else [])])
    return _outcome(groups, bench, "a training step")


def measure_compiled_steps(bench: Bench) -> Outcome:
    """Measures the compiled model beside both as they are."""
    sizes = [(64, 2)] if bench.quick else [(512, 2), (512, 16)]
    groups = [[Step(model, batch, side, "bf16") for model in MODELS] for side, batch in sizes]
    return _outcome([[*rows, replace(rows[-1], compiled=True)] for rows in groups], bench, "compiled, a training step")


def _outcome(groups: list[list[Step]], bench: Bench, title: str) -> Outcome:
    """What is found of groups of rows that are measured in turn."""
    steps: list[Step] = []
    for rows in groups:
        steps += _measured(rows, bench)
        print(*steps[-len(rows) :], sep="\n", flush=True)
    sizes = list(dict.fromkeys((step.side, step.batch) for step in steps))
    of_sizes = [[step for step in steps if (step.side, step.batch) == size] for size in sizes]
    side, batch = sizes[0]
    bars = {f"{step.name}, {step.precision}": 1000 * step.seconds for step in of_sizes[0] if step.seconds is not None}
    return Outcome(
        tuple(_section(*size, rows, on_gpu=bench.on_gpu) for size, rows in zip(sizes, of_sizes, strict=True)),
        [asdict(step) for step in steps],
        {f"{title}, {batch} images of {side}x{side}, ms": bars},
    )


def _measured(rows: list[Step], bench: Bench) -> list[Step]:
    """The rows with what was measured, or with why it was not."""
    if not bench.has_time(to_compile=rows[-1].compiled):
        return [replace(row, problem="no time left") for row in rows]
    peaks: dict[str, int | None] = {}

    def prepare(row: Step) -> Callable[[], None]:
        run, peaks[row.name] = _prepared(row, bench)
        return run

    can_run = [row for row in rows if row.model != MASK2FORMER or peers.has_transformers()]
    title = f"{rows[0].batch} of {rows[0].side}x{rows[0].side}, {rows[0].precision}"
    try:
        preparations = {row.name: partial(prepare, row) for row in can_run}
        seconds, problems = time_what_runs(preparations, 1 if bench.quick else ROUNDS, title=title)
    finally:
        use_triton(None)
        bench.free()
    problems |= {row.name: "transformers is not installed" for row in rows if row not in can_run}
    with_peer = any(row.name == MASK2FORMER and row.name not in problems for row in rows)
    return [
        replace(row, peak=peaks.get(row.name), problem=problems[row.name])
        if row.name in problems
        else replace(
            row,
            peak=peaks[row.name],
            seconds=seconds.median(row.name),
            to_peer=seconds.ratio(row.name, MASK2FORMER) if with_peer and row.model == OURS else None,
        )
        for row in rows
    ]


def _prepared(row: Step, bench: Bench) -> tuple[Callable[[], None], int | None]:
    """The step to measure, after a first one, and how much memory that took."""
    builders: dict[str, Callable[[Scene], Contender]] = {
        OURS: peers.mtaclip,
        MASK2FORMER: peers.mask2former,
        ENCODER: peers.bare_encoder,
    }
    of_others = torch.cuda.memory_allocated(bench.device) if bench.on_gpu else 0
    scene = Scene.random(batch=row.batch, side=row.side, num_classes=bench.num_classes, device=str(bench.device))
    contender = builders[row.model](scene)
    contender.model.train()
    if row.compiled:
        contender.model.compile(dynamic=False, backend=compile_backend(bench))

    def run() -> None:
        use_triton(False if row.grid_sample else None)
        contender.step(bf16=row.precision == "bf16")

    bench.forget_peak()
    run()
    return run, torch.cuda.max_memory_allocated(bench.device) - of_others if bench.on_gpu else None


def _section(side: int, batch: int, steps: list[Step], *, on_gpu: bool) -> Section:
    rows = []
    for step in steps:
        plain = {other.model: other for other in steps if other.precision == step.precision and other.is_plain}
        if step.seconds is None:
            rows.append([step.name, step.precision, step.problem, "", "", "", "", ""])
            continue
        encoder, peer = (plain[model].peak if model in plain else None for model in (ENCODER, MASK2FORMER))
        above = above_ratio = ""
        if step.peak is not None and encoder is not None and step.model != ENCODER:
            above = f"{(step.peak - encoder) / MEBIBYTE:.0f}"
            if step.model == OURS and peer is not None:
                above_ratio = f"{(step.peak - encoder) / (peer - encoder):.2f}"
        cells = [step.name, step.precision, f"{1000 * step.seconds:.1f}", f"{batch / step.seconds:.1f}"]
        cells.append("" if step.to_peer is None else f"{step.to_peer:.2f}")
        rows.append([*cells, "" if step.peak is None else f"{step.peak / MEBIBYTE:.0f}", above, above_ratio])
    columns = ("step", "precision", "ms", "images/s", f"to {MASK2FORMER}", "peak MiB", "above the encoder", "of its")
    note = f"Medians of {ROUNDS} steps, models in turn: forward, loss and backward, without the optimizer's."
    return Section(f"A training step: {batch} images of {side}x{side}", columns, rows, note if on_gpu else "")
