"""From an image to its label map beside transformers' Mask2Former, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import peers, runtimes
from benchmarks.gpu.bench import Bench, Outcome, sentence
from benchmarks.gpu.parity import compile_backend
from benchmarks.measure import time_in_turn
from benchmarks.peers import Scene
from benchmarks.report import Section
from benchmarks.runtimes import LabelMap

OURS, MASK2FORMER = "mtaclip", "Mask2Former"
ROUNDS = 20
LEAST_SECONDS = 30.0


def measure_images(bench: Bench) -> Outcome:
    """Measures one image at a time."""
    sections, numbers = [], []
    for side in [64] if bench.quick else [1024, 512]:
        rows = []
        for precision in ("bf16", "float32"):
            seconds: dict[str, float | str] = {}
            ways = [f"{MASK2FORMER}, eager", f"{OURS}, eager", f"{OURS}, compiled"]
            for name in [*ways, *([] if bench.quick else [f"{MASK2FORMER}, compiled"])]:
                seconds[name] = _measured(name, side, precision, bench)
                print(side, precision, name, seconds[name], flush=True)
                numbers.append({"way": name, "side": side, "precision": precision, "seconds": seconds[name]})
            for name, value in seconds.items():
                rows.append((name, precision, *_cells(value, seconds[f"{MASK2FORMER}, eager"])))
        columns = ("image to label map", "precision", "ms", f"to {MASK2FORMER}, eager")
        sections.append(Section(f"One image of {side}x{side} to its label map", columns, rows))
    return Outcome(tuple(sections), numbers)


def _cells(value: float | str, peer: float | str) -> tuple[str, str]:
    if isinstance(value, str):
        return value, ""
    return f"{1000 * value:.1f}", "" if isinstance(peer, str) or value == peer else f"{value / peer:.2f}"


@torch.inference_mode()
def _measured(name: str, side: int, precision: str, bench: Bench) -> float | str:
    """Median seconds, or why there are none."""
    if name.startswith(MASK2FORMER) and not peers.has_transformers():
        return "transformers is not installed"
    if bench.left < LEAST_SECONDS:
        return "no time left"
    try:
        images = Scene.random(batch=1, side=side, num_classes=bench.num_classes).images.to(bench.device)
        run: Callable[[Tensor], Tensor] = _label_map(name, bench)
        if name.endswith("compiled"):
            run = torch.compile(run, dynamic=False, backend=compile_backend(bench))

        def label() -> Tensor:
            with torch.autocast(bench.device.type, torch.bfloat16, enabled=precision == "bf16"):
                return run(images)

        return time_in_turn({name: label}, 1 if bench.quick else ROUNDS, title=name).median(name)
    except Exception as error:  # the other rows have something to say, whatever it was
        return sentence(error)
    finally:
        bench.free()


def _label_map(name: str, bench: Bench) -> LabelMap:
    if name.startswith(MASK2FORMER):
        built = runtimes.mask2former(peers.build_mask2former(bench.num_classes))
    else:
        built = runtimes.mtaclip(peers.build_mtaclip(bench.num_classes))
    return built.to(bench.device).eval()
