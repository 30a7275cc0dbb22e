from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from benchmarks import zero_shot
from benchmarks.comparison import unseen
from benchmarks.comparison.records import save_json
from benchmarks.comparison.trials import Trial
from benchmarks.comparison.unseen import SourceScores, UnseenScores, load_unseen_scores, score_sources
from benchmarks.comparison.ways import NO_TEXT, WAYS
from tests.trainers.tiny_runs import MTACLIP, TINY, failure
from trainers.assemble import prepare, resolve_unseen
from trainers.options.config import Config
from trainers.options.parsing import parse_config
from trainers.run.checkpoints import load_checkpoint
from trainers.scores.calibration import CalibrationCounts, CalibrationPoint

QUICK = [
    *(option for option in TINY if not option.startswith("--data.dataset")),
    *MTACLIP,
    "--data.dataset=kinds",
    "--model.classification=text",
    "--model.center_text=true",
    "--model.text_masks=1",
    "--model.pixel_scores=1",
    "--loss.text_mask_weight=1",
    "--loss.pixel_weight=10",
]


def configured() -> Config:
    return resolve_unseen(parse_config(QUICK))


def test_each_way_is_a_training_of_its_own() -> None:
    config = configured()
    assert len({Trial(way, change(config)).key for way, change in WAYS.items()}) == len(WAYS) == 5
    masks, pixels, without = (WAYS[way](config) for way in ("masks", "pixels", NO_TEXT))
    assert masks.loss.pixel_weight == masks.loss.text_mask_weight == masks.model.pixel_scores == 0
    assert masks.loss.class_weight and masks.model.query_scores and masks.data == config.data
    weights = {name for name, value in asdict(pixels.loss).items() if name.endswith("_weight") and value}
    assert weights == {"pixel_weight", "no_object_weight"}
    assert without.data.unseen_names == () and without.data.ignore_classes == config.data.unseen_names
    assert len(config.data.unseen_names) == 16


def test_classes_that_are_void_anyway_stay_so_without_text() -> None:
    config = configured()
    config = replace(config, data=replace(config.data, ignore_classes=("background",)))
    assert WAYS[NO_TEXT](config).data.ignore_classes == ("background", *config.data.unseen_names)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero_shot")
    zero_shot.main([*QUICK_WITHOUT_SEED, "--seeds", "0,1", "--output", str(folder)])
    return folder


QUICK_WITHOUT_SEED = [option for option in QUICK if not option.startswith("--train.overlays")]


def test_the_program_scores_each_source(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads((output / "zero_shot.json").read_text())
    assert [(row["contender"], row["source"]) for row in report["rows"]] == [
        ("mtaclip", "all"),
        *(("mtaclip", f"queries, {namer}") for namer in ("by text", "per name", "by pixels")),
        *(("mtaclip", source) for source in ("text masks", "pixels")),
        *(("masks", source) for source in ("all", "queries, per name")),
        ("pixels", "all"),
        ("denseclip", "all"),
    ]
    assert all(len(row["seeds"]) == 2 for row in report["rows"]) and len(report[NO_TEXT]) == 2
    page = (output / "zero_shot.md").read_text()
    assert "| denseclip | all |" in page and "| no text | class head | - |" in page and "± 0.0 |" in page
    assert (output / "zero_shot.png").read_bytes().startswith(b"\x89PNG")
    times = {file: file.stat().st_mtime_ns for file in output.glob("unseen/*.json")}
    assert len(times) == 8
    for checkpoint in output.glob("runs/*/last.pt"):
        checkpoint.rename(checkpoint.with_name("away.pt"))  # what is known is not looked at again
    zero_shot.main([*QUICK_WITHOUT_SEED, "--seeds", "0,1", "--output", str(output), "--report"])
    assert capsys.readouterr().out == page
    assert times == {file: file.stat().st_mtime_ns for file in output.glob("unseen/*.json")}
    for checkpoint in output.glob("runs/*/away.pt"):
        checkpoint.rename(checkpoint.with_name("last.pt"))


def test_what_a_source_says_alone_is_what_an_evaluation_says(output: Path) -> None:
    checkpoint = next(
        checkpoint
        for file in output.glob("runs/*/last.pt")
        if (checkpoint := load_checkpoint(file)).config.model.text_masks and checkpoint.config.train.seed == 0
    )
    scores = score_sources(checkpoint).sources
    ways = {
        "all": {},
        "pixels": {"query_scores": 0.0, "text_masks": 0.0},
        "queries, per name": {"text_masks": 0.0, "pixel_scores": 0.0, "classification": "per_name"},
        "queries, by pixels": {"text_masks": 0.0, "pixel_scores": 0.0, "classification": "pixels"},
    }
    for source, scoring in ways.items():
        found = prepare(checkpoint, root=None, split=None, device="cpu", scoring=scoring).scores().zero_shot
        assert found is not None
        point = scores[source].curve[0]
        named = [point.seen_mean_iou, point.unseen_mean_iou, point.harmonic_mean_iou]
        assert named == [found.seen_mean_iou, found.unseen_mean_iou, found.harmonic_mean_iou]


def test_each_half_is_scored_with_the_calibration_of_the_other() -> None:
    """By hand: two classes, the second unseen, a pixel of each in each half, found from another calibration on."""
    halves = []
    for ahead in (0.4, 0.9):  # the unseen one is found from 0.5 on in the first half, from 1 on in the second
        counts = CalibrationCounts(2, [1], (0.0, 0.5, 1.0))
        scores = torch.tensor([[9.0, 0.0], [ahead, 0.0]]).exp().T.reshape(1, 2, 1, 2) / 9000
        counts.update(scores, torch.tensor([[[0, 1]]]))
        halves.append(counts)
    found = unseen._scores(*halves, (1,))
    # The first half at 1 is right, the second at 0.5 takes its unseen pixel for the seen class.
    assert found.fitted.calibration == 1.0
    assert (found.fitted.seen_mean_iou, found.fitted.unseen_mean_iou) == (pytest.approx(2 / 3), pytest.approx(1 / 2))
    assert found.curve[2].harmonic_mean_iou == 1.0 and found.seen_alone == found.unseen_alone == 1.0


def test_scores_are_kept_as_they_are(tmp_path: Path) -> None:
    point = CalibrationPoint(0.5, 0.25, 0.75, 0.375)
    scores = UnseenScores({"all": SourceScores((point, point), point, 0.5, 0.25)})
    save_json(scores, tmp_path / "scores.json")
    assert load_unseen_scores(tmp_path / "scores.json") == scores


def test_what_cannot_be_compared_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no way 'fpn'; choose among mtaclip, masks" in failure(zero_shot.main, ["--ways", "fpn"], capsys)
    said = failure(zero_shot.main, ["--data.dataset", "shapes"], capsys)
    assert "No class is kept from training; name some with --data.unseen." in said
