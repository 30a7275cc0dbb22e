from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import failure_picture, failures
from benchmarks.failure_picture import LARGEST_FILE, Row, failure_png
from benchmarks.failures import Failure, class_section, confusion_section, measure, worst_images
from tests.trainers.tiny_runs import MTACLIP, TINY, failure
from trainers.assemble import (
    create_dataset,
    create_forward,
    create_model,
    create_vocabulary,
    resolve_statistics,
    restore_model,
)
from trainers.data.batch import Sample, SegmentationDataset
from trainers.data.loaders import create_eval_loader
from trainers.data.shapes import CLASS_NAMES
from trainers.engine.forward import Forward
from trainers.foundation.errors import UserError
from trainers.options.parsing import parse_config
from trainers.report.pictures import palette
from trainers.run.checkpoints import Checkpoint, ValidationState, load_checkpoint, save_checkpoint


class Samples(SegmentationDataset):
    def __init__(self, labels: Sequence[Tensor]) -> None:
        self.class_names = ["sky", "road", "car"]
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        label = self._labels[index]
        return Sample(torch.zeros(3, *label.shape, dtype=torch.uint8), label, f"sample {index}")


@dataclass
class Given:
    """Predicts what it is given, one label map after the other."""

    predictions: list[Tensor]

    def predict_labels(self, images: Tensor) -> Tensor:
        return self.predictions.pop(0)[None]


def outcome_of(labels: Sequence[Tensor], predictions: Sequence[Tensor]) -> failures.Outcome:
    forward = cast("Forward", Given(list(predictions)))
    return measure([forward], create_eval_loader(Samples(labels), batch_size=1, num_workers=0), 3)[0]


def literal_score(prediction: np.ndarray, label: np.ndarray) -> float:
    scores = []
    for class_id in set(label.ravel().tolist()) - {255}:
        predicted, true = (prediction == class_id) & (label != 255), label == class_id
        scores.append((predicted & true).sum() / (predicted | true).sum())
    return sum(scores) / len(scores) if scores else math.nan


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of tiny runs before their first step."""
    paths = []
    for name, options in {"mtaclip": MTACLIP, "fpn": ["--model.arch=fpn"]}.items():
        config = parse_config([*TINY, *options, "--data.val_length=5"])
        model = create_model(config, create_vocabulary(config, CLASS_NAMES))
        path = tmp_path_factory.mktemp("runs") / name / "last.pt"
        path.parent.mkdir()
        checkpoint = Checkpoint(
            config=resolve_statistics(config, model, create_dataset(config.data, "train")),
            class_names=CLASS_NAMES,
            iteration=0,
            validation=ValidationState(),
            model=model.state_dict(),
            average=None,
            optimizer={},
            scheduler={},
            scaler={},
        )
        save_checkpoint(checkpoint, path)
        paths.append(path)
    return paths


def arguments(checkpoints: Sequence[Path], output: Path, *options: str) -> list[str]:
    paths = map(str, checkpoints)
    return ["--checkpoints", *paths, "--count", "2", "--device", "cpu", "--output", str(output), *options]


def test_the_page_has_the_scores_of_a_literal_reference(
    checkpoints: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failures.main(arguments(checkpoints, tmp_path / "new" / "worst.png"))
    page = (tmp_path / "new" / "worst.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == page + "\n"
    assert "# Where mtaclip and fpn fail" in page and "`python -m benchmarks.failures --checkpoints " in page

    scores: list[list[float]] = []
    for path in checkpoints:
        checkpoint = load_checkpoint(path)
        forward = create_forward(restore_model(checkpoint), checkpoint.config)
        dataset = create_dataset(checkpoint.config.data, "val")
        samples = [dataset[index] for index in range(5)]
        predictions = [forward.predict_labels(sample.image[None] / 255)[0] for sample in samples]
        pairs = zip(predictions, samples, strict=True)
        scores.append([literal_score(prediction.numpy(), sample.label.numpy()) for prediction, sample in pairs])
    worst = [sorted(range(5), key=own.__getitem__)[:2] for own in scores]
    for index in {*worst[0], *worst[1]}:
        ranks = [
            (name, own.index(index) + 1) for name, own in zip(("mtaclip", "fpn"), worst, strict=True) if index in own
        ]
        cells = [dataset[index].name, *(f"{100 * own[index]:.1f}" for own in scores)]
        whose = ", ".join(f"{name} ({rank})" for name, rank in ranks)
        assert page.count(f"| {' | '.join(cells)} | {whose} |\n") == 1
    assert sum(dataset[index].name in page for index in range(5)) == len({*worst[0], *worst[1]})
    png = tmp_path / "new" / "worst.png"
    assert 0 < png.stat().st_size < 200_000
    with Image.open(png) as picture:
        assert picture.format == "PNG" and picture.width > 4 * 280


def test_ignored_pixels_do_not_matter() -> None:
    labels = [torch.randint(0, 3, (6, 7)) for _ in range(3)]
    labels[0][:2] = labels[1][:, 3:] = 255
    labels[2][:] = 255
    predictions = [torch.randint(0, 3, (6, 7)) for _ in range(3)]
    others = [torch.where(label == 255, 2 - p, p) for label, p in zip(labels, predictions, strict=True)]
    outcome, other = outcome_of(labels, predictions), outcome_of(labels, others)
    assert torch.equal(outcome.confusion, other.confusion) and outcome.confusion.sum() == 4 * 7 + 6 * 3
    pairs = zip(predictions, labels, strict=True)
    expected = [literal_score(prediction.numpy(), label.numpy()) for prediction, label in pairs]
    assert outcome.scores == pytest.approx(expected, nan_ok=True)
    assert other.scores == pytest.approx(expected, nan_ok=True)
    assert math.isnan(expected[2])


def test_a_class_that_no_label_of_an_image_has_does_not_score_itself_but_costs_others() -> None:
    outcome = outcome_of([torch.tensor([[0, 0, 1, 1]])], [torch.tensor([[0, 2, 1, 1]])])
    assert outcome.scores == ((1 / 2 + 1) / 2,)


def test_the_worst_of_each_model_without_duplicates() -> None:
    scores = [[0.5, 0.1, math.nan, 0.3, 0.2], [0.2, 0.1, 0.0, 0.6, 0.9]]
    assert worst_images(scores, 2) == [
        Failure(1, (1, 2)),
        Failure(4, (2, None)),
        Failure(2, (None, 1)),
    ]
    assert [chosen.index for chosen in worst_images(scores[:1], 9)] == [1, 4, 3, 0]


def test_typical_images_are_those_in_the_middle() -> None:
    scores = [[0.9, 0.1, 0.5, math.nan, 0.6, 0.3], [0.9, 0.1, 0.3, 0.2, 0.6, 0.3]]
    assert [failure.index for failure in failures.typical_images(scores, 1)] == [2]
    assert [failure.index for failure in failures.typical_images(scores, 3)] == [5, 2, 4]
    assert failures.typical_images(scores, 9)[0] == failures.Failure(1, (None, None))
    assert failures.typical_images(scores, 0) == []


def test_tables_of_classes_and_confusions() -> None:
    confusion = torch.tensor([[6, 2, 0], [0, 1, 1], [0, 0, 0]])
    assert class_section("ours", confusion, ["sky", "road", "car"]).rows == [
        ("car", "0.0", "0.0"),
        ("road", "25.0", "20.0"),
        ("sky", "75.0", "80.0"),
    ]
    assert confusion_section("ours", confusion, ["sky", "road", "car"]).rows == [
        ("road", "car", "50.0"),
        ("sky", "road", "25.0"),
    ]


def noisy_row(scale: int) -> Row:
    """A row as heavy as a street scene: a photo of smoothed noise, and label maps of many blocks."""
    photo = torch.from_numpy(np.array(Image.effect_noise((480, 360), 60).resize((240, 180)).resize((480, 360))))
    blocks = torch.randint(0, 11, (3, 360 // scale, 480 // scale))
    return Row(
        "0016E5_08047",
        photo.expand(3, -1, -1),
        blocks.repeat_interleave(scale, 1).repeat_interleave(scale, 2),
        ["mtaclip: IoU 6.1, worst no. 1", "fpn: IoU 29.5"],
    )


def test_eight_rows_of_large_images_stay_small_and_keep_the_colors_of_the_classes(tmp_path: Path) -> None:
    png = failure_png([noisy_row(20) for _ in range(8)], [f"class {index}" for index in range(11)])
    assert len(png) < LARGEST_FILE
    (tmp_path / "picture.png").write_bytes(png)
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.mode == "P" and picture.width > 4 * 100
        shown = {color for _, color in picture.convert("RGB").getcolors() or []}
    assert {tuple(color) for color in palette(11).tolist()} <= shown


def test_too_many_images_for_a_small_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_picture, "LARGEST_FILE", 9000)
    monkeypatch.setattr(failure_picture, "SIDES", (120, 100))
    with pytest.raises(UserError, match=r"The picture of 2 images takes 9 KB or more, .*; lower --count\."):
        failure_png([noisy_row(20)] * 2, [f"class {index}" for index in range(11)])


def test_checkpoints_of_other_classes(
    checkpoints: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = load_checkpoint(checkpoints[1])
    renamed = tmp_path / "renamed.pt"
    save_checkpoint(replace(checkpoint, class_names=("backdrop", *CLASS_NAMES[1:])), renamed)
    output = tmp_path / "worst.png"
    line = failure(failures.main, arguments([checkpoints[0], renamed], output), capsys)
    assert line.startswith(f"error: The checkpoint {renamed} knows the classes backdrop, red circle, ")
    assert line.endswith("only models and data of the same classes can be compared.")
    line = failure(failures.main, arguments([renamed], output), capsys)
    assert line.startswith("error: The dataset has the classes background, red circle, ")
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--names", "one"), "2 checkpoints need as many different --names, not one."),
        (("--names", "one", "one"), "2 checkpoints need as many different --names, not one one."),
        (("--count", "0"), "--output must be a FILE.png, --count at least 1, and --typical 0 or more."),
        (("--output", "picture.jpg"), "--output must be a FILE.png, --count at least 1, and --typical 0 or more."),
    ],
)
def test_options_that_make_no_sense(
    checkpoints: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: Sequence[str], sentence: str
) -> None:
    line = failure(failures.main, arguments(checkpoints, tmp_path / "worst.png", *options), capsys)
    assert line == f"error: {sentence}"
