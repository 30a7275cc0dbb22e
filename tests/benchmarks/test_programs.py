from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from benchmarks import inference, loading, peers, runtimes, step, vocabulary
from benchmarks.measure import count_flops
from benchmarks.report import QUICK_RESULTS, RESULTS, benchmark_parser, report_folder
from mtaclip_plugin import MTACLIPLoss
from mtaclip_plugin.text import PromptLearner, TextTower
from tests.trainers.tiny_runs import MTACLIP, TINY, failure
from trainers.data.shapes import ShapesDataset
from trainers.engine.criteria import MaskCriterion
from trainers.options.parsing import parse_config


@pytest.fixture(autouse=True)
def _small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of fewer layers, and losses of fewer points, than what the programs are for."""
    sizes = {"decoder_channels": 64, "decoder_layers": 2, "decoder_ffn": 64, "pixel_decoder_layers": 1}
    monkeypatch.setattr(peers.smp, "create_model", partial(smp.create_model, **sizes))
    for module in (peers, step):
        monkeypatch.setattr(module, "MTACLIPLoss", partial(MTACLIPLoss, num_points=64))


def report_of(folder: Path, name: str) -> dict:
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((folder / f"{name}.json").read_text())
    assert report["command"].startswith(f"python -m benchmarks.{name} --quick")
    assert "torch" in report["versions"] and report["machine"]["processor"]
    return report["numbers"]


def test_step_counts_times_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "has_transformers", lambda: False)
    monkeypatch.setattr(step, "TEXT_TOWER", "tiny-wide")
    step.main(["--quick", "--rounds", "1", "--output", str(tmp_path)])
    numbers = report_of(tmp_path, "step")
    counts = numbers["counts"]["64"]
    assert counts["encoder alone"]["flops"] < counts["mtaclip, no text"]["flops"] < counts["mtaclip"]["flops"]
    assert counts["encoder alone"]["peak"] < counts["mtaclip"]["peak"]
    assert numbers["text"]["shared prefix"] < numbers["text"]["shortened"] < numbers["text"]["padded"]
    assert [part["name"] for part in numbers["parts"]][:2] == ["encoder", "pixel decoder"]
    assert "Mask2Former" not in numbers["seconds"][0]
    page = (tmp_path / "step.md").read_text()
    assert "## Timed at 64x64" in page and "| official flow |" in page


def test_step_says_which_peer_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "has_transformers", lambda: False)
    assert step.MASK2FORMER not in step.contenders([step.OURS, step.MASK2FORMER])
    assert "transformers is not installed, so Mask2Former is left out" in capsys.readouterr().out


def test_vocabulary_counts_and_reports(tmp_path: Path) -> None:
    vocabulary.main(["--quick", "--rounds", "0", "--output", str(tmp_path)])
    counts = report_of(tmp_path, "vocabulary")["counts"]
    assert counts["20"]["above"] < counts["40"]["above"] < 2 * counts["20"]["above"]


@pytest.mark.parametrize("name", ["tiny-wide", "tiny-flat"])
def test_operations_of_a_sequence_are_those_that_are_counted(name: str) -> None:
    tower = TextTower(name, None)
    plain = PromptLearner(tower, ["cat"], num_prompts=1, shared_prefix=False)
    counted = count_flops(plain) / 2  # "cat" and "none"
    assert step.sequence_flops(tower, tower.context_length) == counted - 2 * tower.width * plain.text_channels


def test_inference_counts_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "has_transformers", lambda: False)
    monkeypatch.setattr(inference, "TEXT_TOWER", "tiny-wide")
    inference.main(["--quick", "--rounds", "0", "--output", str(tmp_path)])
    numbers = report_of(tmp_path, "inference")
    counts, text = numbers["counts"]["64"], numbers["text"]
    assert set(counts) == {"mtaclip", "mtaclip, by its logits"}
    assert counts["mtaclip"]["peak"] <= counts["mtaclip, by its logits"]["peak"]
    assert text["second image, text tower"] < text["first image, text tower"]
    assert "transformers is not installed, so Mask2Former is left out" in capsys.readouterr().out


def small_label_map() -> runtimes.LabelMap:
    def graph(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        return (network(images),)

    def after(outputs: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        assert list(size) == list(outputs[0].shape[-2:])
        return outputs[0].argmax(1)

    network = nn.Conv2d(3, 5, 3, padding=1)
    return runtimes.LabelMap(network, lambda network, images: network(images).argmax(1), graph, after).eval()


@torch.inference_mode()
def test_onnxruntime_gives_the_labels_of_the_eager_model() -> None:
    images = torch.randn(1, 3, 8, 9)
    way = runtimes.in_onnxruntime("small", small_label_map(), images)
    assert way.name == "small, onnxruntime" and way.agreement == 1.0
    assert way.run(images).shape == (1, 8, 9)


@torch.inference_mode()
def test_what_can_not_be_run_elsewhere_is_left_out_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "find_spec", lambda package: None)
    with pytest.raises(
        runtimes.LeftOut, match="onnx is not installed, so small is not run in onnxruntime: pip install"
    ):
        runtimes.in_onnxruntime("small", small_label_map(), torch.randn(1, 3, 8, 9))


def test_loading_measures_the_wait(tmp_path: Path) -> None:
    model = [option for option in [*TINY, *MTACLIP] if not option.startswith("--train.iterations")]
    loading.main(["--quick", "--workers", "0", "1", "--output", str(tmp_path), *model])
    waits = report_of(tmp_path, "loading")["waits"]
    assert [wait["workers"] for wait in waits] == [0, 1]
    assert all(wait["waiting"] > 0 and wait["step"] > 0 for wait in waits)


@pytest.mark.parametrize(("slow", "other"), [("waiting", "step"), ("step", "waiting")])
def test_loading_knows_a_slow_reader_from_a_slow_step(slow: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name = {"waiting": (ShapesDataset, "__getitem__"), "step": (MaskCriterion, "forward")}[slow]
    quick = getattr(owner, name)

    def slowed(*arguments: object) -> object:
        time.sleep(1)
        return quick(*arguments)

    monkeypatch.setattr(owner, name, slowed)
    wait = loading.measure_wait(parse_config([*TINY, *MTACLIP, "--data.num_workers=0"]))
    assert getattr(wait, slow) >= 1 > getattr(wait, other)


def test_waiting_can_not_be_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = failure(loading.main, ["--rounds", "0", "--output", str(tmp_path)], capsys)
    assert "--rounds must be at least 1" in line


def test_quick_results_are_no_results(tmp_path: Path) -> None:
    parser = benchmark_parser("step", "")
    assert report_folder(parser.parse_args([])) == RESULTS
    assert report_folder(parser.parse_args(["--quick"])) == QUICK_RESULTS
    assert report_folder(parser.parse_args(["--quick", "--output", str(tmp_path)])) == tmp_path
