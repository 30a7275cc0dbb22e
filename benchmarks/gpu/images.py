"""From an image to its label map beside transformers' Mask2Former."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks import peers, runtimes
from benchmarks.gpu.bench import Bench, Outcome, time_what_runs
from benchmarks.gpu.parity import compile_backend
from benchmarks.peers import Scene
from benchmarks.report import Section
from benchmarks.runtimes import LabelMap

OURS, MASK2FORMER = "mtaclip", "Mask2Former"
PEER = f"{MASK2FORMER}, eager"
ROUNDS = 20


@dataclass(frozen=True)
class Labelled:
    """One row of the table.

    Attributes:
        way: the model, and whether it is compiled.
        side: of the image, in pixels.
        precision: "float32" or "bf16".
        seconds: the median; ``None`` where it could not be measured.
        problem: why not.
    """

    way: str
    side: int
    precision: str
    seconds: float | None = None
    problem: str = ""


def measure_images(bench: Bench, *, compiled: bool = False) -> Outcome:
    """Measures one image at a time.

    Args:
        bench: device and time.
        compiled: whether the models are measured compiled, too.
    """
    sides = [64] if bench.quick else [1024, 512]
    ways = [PEER, f"{OURS}, eager"]
    if compiled:
        ways += [f"{OURS}, compiled", *([] if bench.quick else [f"{MASK2FORMER}, compiled"])]
    found: list[Labelled] = []
    for side in sides:
        for precision in ("bf16", "float32"):
            found += _measured([Labelled(way, side, precision) for way in ways], bench)
            print(*found[-len(ways) :], sep="\n", flush=True)
    columns = ("image to label map", "precision", "ms", f"to {PEER}")
    sections = []
    for side in sides:
        rows = _rows([row for row in found if row.side == side])
        sections.append(Section(f"One image of {side}x{side} to its label map", columns, rows))
    return Outcome(tuple(sections), [asdict(row) for row in found])


def _rows(found: list[Labelled]) -> list[list[str]]:
    peers = {row.precision: row.seconds for row in found if row.way == PEER}
    rows = []
    for row in sorted(found, key=lambda row: row.precision):
        peer, ratio = peers[row.precision], ""
        if row.seconds is not None and peer is not None and row.way != PEER:
            ratio = f"{row.seconds / peer:.2f}"
        rows.append([row.way, row.precision, row.problem or f"{1000 * (row.seconds or 0):.1f}", ratio])
    return rows


@torch.inference_mode()
def _measured(rows: list[Labelled], bench: Bench) -> list[Labelled]:
    """The rows, which are timed in turn, with median seconds, or with why there are none."""
    if not bench.has_time(to_compile=rows[-1].way.endswith("compiled")):
        return [replace(row, problem="no time left") for row in rows]
    can_run = [row for row in rows if not row.way.startswith(MASK2FORMER) or peers.has_transformers()]
    try:
        preparations = {row.way: partial(_prepared, row, bench) for row in can_run}
        title = f"{rows[0].side}, {rows[0].precision}"
        seconds, problems = time_what_runs(preparations, 1 if bench.quick else ROUNDS, title=title)
    finally:
        bench.free()
    problems |= {row.way: "transformers is not installed" for row in rows if row not in can_run}
    return [
        replace(row, problem=problems[row.way])
        if row.way in problems
        else replace(row, seconds=seconds.median(row.way))
        for row in rows
    ]


def _prepared(row: Labelled, bench: Bench) -> Callable[[], Tensor]:
    """What labels the image, after a first time."""
    images = Scene.random(batch=1, side=row.side, num_classes=bench.num_classes).images.to(bench.device)
    run: Callable[[Tensor], Tensor] = _label_map(row.way, bench)
    if row.way.endswith("compiled"):
        run = torch.compile(run, dynamic=False, backend=compile_backend(bench))
    label = partial(_label, run, images, bf16=row.precision == "bf16")
    label()
    return label


def _label(run: Callable[[Tensor], Tensor], images: Tensor, *, bf16: bool) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        return run(images)


def _label_map(name: str, bench: Bench) -> LabelMap:
    if name.startswith(MASK2FORMER):
        built = runtimes.mask2former(peers.build_mask2former(bench.num_classes))
    else:
        built = runtimes.mtaclip(peers.build_mtaclip(bench.num_classes))
    return built.to(bench.device).eval()
