from __future__ import annotations

import copy
import json
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch

from benchmarks import peers
from benchmarks.gpu import __main__ as program
from benchmarks.gpu import parity, sampling, waits
from benchmarks.gpu.bench import Bench, Outcome, time_what_runs
from benchmarks.gpu.page import Page
from benchmarks.gpu.parity import Check, difference
from benchmarks.report import Section
from mtaclip_plugin import MTACLIPLoss
from tests.trainers.tiny_runs import failure

SECTION = Section("Found", ("what", "how much"), [("it", "1")])


@pytest.fixture(autouse=True)
def _small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"decoder_channels": 64, "decoder_layers": 2, "decoder_ffn": 64, "pixel_decoder_layers": 1}
    monkeypatch.setattr(peers.smp, "create_model", partial(smp.create_model, **sizes))
    monkeypatch.setattr(peers, "has_transformers", lambda: False)
    monkeypatch.setattr(peers, "MTACLIPLoss", partial(MTACLIPLoss, num_points=64))
    monkeypatch.setattr(parity, "MTACLIPLoss", lambda num_points: MTACLIPLoss(num_points=64))


class OnGPU(Bench):
    """A bench of a CPU that takes itself for one of a GPU."""

    on_gpu = property(lambda self: True)

    def free(self) -> None:
        """No memory of a card is given back."""


def bench_on_cpu() -> Bench:
    return Bench(torch.device("cpu"), quick=True, seconds=600)


def test_all_of_it_runs_quickly_on_a_cpu(tmp_path: Path) -> None:
    program.main(["--quick", "--output", str(tmp_path)])
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert list(parts) == list(program.PARTS)
    page = (tmp_path / "gpu.md").read_text()
    for problem in ("Failed", "**NO**", "Not measured", "Error"):
        assert problem not in page
    assert "not measured: no GPU" in page  # waits, of which a CPU has none
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")
    checks = {check["name"]: check for check in parts["parity"]["numbers"]}
    assert checks["bank, float64: loss"]["found"] == checks["no text, float32: all gradients"]["found"] == 0
    assert checks["a training: CPU, device, CPU"]["found"] == "6 of 6 steps"
    assert [check["found"] for check in parts["compiled"]["numbers"]] == [pytest.approx(0, abs=1e-6)] * 3
    for part, of_part in (("steps", {"encoder alone", "mtaclip"}), ("images", {"mtaclip, eager"})):
        for name, more in ((part, set()), (f"compiled_{part}", {"mtaclip, compiled"})):
            measured = [row for row in parts[name]["numbers"] if row["seconds"] is not None]
            ways = {row.get("way") or row["model"] + ", compiled" * row["compiled"] for row in measured}
            assert ways == of_part | more
    assert set(parts["trainings"]["numbers"]) == {"mtaclip", "fpn"}


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU that torch can use here; --quick runs all of it" in failure(program.main, [], capsys)
    assert "There is no part 'speed'" in failure(program.main, ["--quick", "--parts", "speed"], capsys)


def test_a_part_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(bench: Bench) -> Outcome:
        raise RuntimeError("the card | is gone")

    monkeypatch.setattr(program, "check_all", fail)
    monkeypatch.setattr(program, "count_waits", lambda bench: Outcome((SECTION,), 1))
    program.main(["--quick", "--output", str(tmp_path), "--parts", "parity,waits"])
    page = (tmp_path / "gpu.md").read_text()
    assert "| parity | RuntimeError: the card / is gone |" in page and "| it | 1 |" in page
    assert page.count("Not measured.") == len(program.PARTS) - 2
    assert "RuntimeError" in capsys.readouterr().err  # with its lines


def test_what_can_not_be_prepared_leaves_the_others() -> None:
    called: list[str] = []
    preparations = {"good": lambda: partial(called.append, "good"), "bad": lambda: {}["a key"]}
    seconds, problems = time_what_runs(preparations, 2, title="both")
    assert called == ["good"] * 3 and len(seconds.rounds) == 2 and seconds.median("good") >= 0
    assert problems == {"bad": "KeyError: 'a key'"}


def test_what_fails_beside_the_others_is_said_of_all_that_were_timed() -> None:
    memory = iter("a")
    preparations = {"first": lambda: partial(next, memory), "other": lambda: dict, "bad": lambda: {}["a key"]}
    seconds, problems = time_what_runs(preparations, 2, title="all")
    assert seconds.rounds == ()
    kinds = {name: problem.partition(":")[0] for name, problem in problems.items()}
    assert kinds == {"first": "StopIteration", "other": "StopIteration", "bad": "KeyError"}


def test_a_later_call_keeps_what_was_measured_on_the_same_machine(tmp_path: Path) -> None:
    Page(tmp_path, "first", program.PARTS).add("steps", Outcome((SECTION,), 1), seconds=2)
    page = Page(tmp_path, "second", program.PARTS)
    page.add("waits", Outcome((SECTION,), 2), seconds=3)
    text = (tmp_path / "gpu.md").read_text()
    assert "Made by `first` in 2 s." in text and "Made by `second` in 3 s." in text
    content = json.loads((tmp_path / "gpu.json").read_text())
    content["machine"]["gpu"] = "another one"
    (tmp_path / "gpu.json").write_text(json.dumps(content))
    assert Page(tmp_path, "third", program.PARTS).parts == {}


def test_differences_that_are_no_numbers_are_wrong() -> None:
    assert difference(torch.tensor([1.0, 2.2]), torch.tensor([1.0, 2.0])) == pytest.approx(0.1)
    assert not Check.of("it", difference(torch.tensor([torch.nan]), torch.tensor([1.0])), 1e9).right


def test_what_computes_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that changes on its way to the device."""

    def broken(model: torch.nn.Module) -> torch.nn.Module:
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in moved.decoder.parameters():
                parameter.mul_(1.1)
        return moved

    monkeypatch.setattr(parity, "copy", SimpleNamespace(deepcopy=broken))
    checks = parity._numbers(bench_on_cpu())
    exact = [check for check in checks if "float64" in check.name and check.name.endswith(("loss", "gradients"))]
    assert len(exact) == 4 and not any(check.right for check in exact)


def test_waits_are_told_by_the_line_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of the real trainer, with one wait that is planted where the loss is."""

    class Waiting(MTACLIPLoss):
        def terms(self, *inputs: object, **options: object) -> dict[str, torch.Tensor]:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            return super().terms(*inputs, **options)

    build = waits.build_criterion

    def build_waiting(*inputs: object, **options: object) -> object:
        criterion = build(*inputs, **options)
        criterion.loss.__class__ = Waiting
        return criterion

    monkeypatch.setattr(waits, "build_criterion", build_waiting)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    monkeypatch.setattr(waits, "_trainer", lambda bench, folder, make=waits._trainer: make(bench_on_cpu(), folder))
    outcome = waits.count_waits(OnGPU(torch.device("cpu"), quick=True, seconds=60))
    ((place, count), last) = outcome.sections[0].rows
    assert place.startswith("tests/benchmarks/test_gpu.py:") and count == "1" and last == ("all", "1")


def test_a_kernel_that_samples_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "ROUNDS", 1)
    monkeypatch.setattr(sampling, "HEADS", 1)
    monkeypatch.setattr(sampling, "WIDTH", 2)
    bench = OnGPU(torch.device("cpu"), quick=True, seconds=60)

    def small(**options: Any) -> sampling.Inputs:
        return create(**{**options, "side": 64, "dtype": torch.float32})

    create = sampling.Inputs.random
    monkeypatch.setattr(sampling.Inputs, "random", small)
    for factor, right in ((1.0, "yes"), (1.1, "**NO**")):
        monkeypatch.setattr(sampling, "triton_sampling", lambda *x, by=factor: by * sampling.grid_sampling(*x))
        (section,) = sampling.measure_sampling(bench).sections
        assert len(section.rows) == 6 and {row[-1] for row in section.rows} == {right}
