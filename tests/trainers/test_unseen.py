"""Runs that keep classes from training, and what validates, evaluates, predicts and goes on with them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtaclip_plugin.inference import Scoring
from tests.trainers.run.test_kills import differences
from tests.trainers.tiny_runs import MTACLIP, TINY, failure, run_training
from trainers import evaluate, predict, train
from trainers.assemble import (
    create_dataset,
    create_forward,
    create_model,
    create_vocabulary,
    restore_model,
    set_scoring,
)
from trainers.data.batch import IGNORE_INDEX
from trainers.foundation.errors import reading
from trainers.options.parsing import parse_config
from trainers.run import validation
from trainers.run.checkpoints import load_checkpoint
from trainers.run.interruption import Interruption
from trainers.run.training import create_training
from trainers.scores.calibration import CALIBRATIONS
from trainers.scores.metrics import SegmentationScores
from trainers.scores.zero_shot import harmonic_mean

NAMES = ["sky", "sheep", "road", "sofa"]
UNSEEN = ["sheep", "sofa"]
TOWER = ["--model.text_encoder=tiny-flat", "--model.text_pretrained=null", "--model.num_prompts=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures in each split with a stripe of each class, of different heights."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True)
        for index in range(3):
            label = rng.permutation(4).astype(np.uint8).repeat(10)[None].repeat(32 + index, 0)
            noise = rng.integers(0, 40, (*label.shape, 3))
            Image.fromarray((label[..., None] * 60 + noise).astype(np.uint8)).save(
                root / "images" / split / f"{index}.png"
            )
            Image.fromarray(label).save(root / "annotations" / split / f"{index}.png")
    (root / "classes.txt").write_text("\n".join(NAMES))
    return root


def write_bank(path: Path, *shape: int, seed: int = 0, unseen_seed: int | None = None) -> Path:
    """A bank of random text; with another ``unseen_seed`` only that of the unseen classes is other text."""
    bank = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    if unseen_seed is not None:
        other = np.random.default_rng(unseen_seed).normal(size=shape).astype(np.float32)
        bank[..., [1, 3], :] = other[..., [1, 3], :]
    np.save(path, bank)
    return path


def options(data: Path, text: Path | list[str], *more: str) -> list[str]:
    text_options = text if isinstance(text, list) else [f"--model.text_embeddings={text}"]
    names = json.dumps(UNSEEN)
    data_options = ["--data.dataset=folder", f"--data.root={data}", f"--data.unseen={names}"]
    return [*MTACLIP, *data_options, *text_options, "--train.overlays=0", *more]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a bank of one row a class, and a moving average."""
    folder = tmp_path_factory.mktemp("runs")
    bank = write_bank(folder / "bank.npy", 4, 6)
    return run_training(folder / "run", *options(data, bank, "--train.ema_decay=0.5"))


@pytest.fixture(params=["short bank", "bank", "tower"])
def text(request: pytest.FixtureRequest, tmp_path: Path) -> Path | list[str]:
    shapes = {"short bank": (4, 6), "bank": (2, 5, 6)}
    return TOWER if request.param == "tower" else write_bank(tmp_path / "bank.npy", *shapes[request.param])


def equal_runs(first: Path, second: Path, *names: str) -> list[str]:
    """Where two checkpoints differ, but for the configuration."""
    ours, theirs = (vars(load_checkpoint(path)) for path in (first, second))
    return [place for name in names for place in differences(ours[name], theirs[name], name)]


def test_no_unseen_text_reaches_training(data: Path, tmp_path: Path) -> None:
    """Text that is not a number would make all that it touches no number."""
    config = parse_config([*TINY, *options(data, write_bank(tmp_path / "bank.npy", 4, 6))])
    config = replace(config, data=replace(config.data, mean=(0.5,) * 3, std=(0.5,) * 3))
    dataset = create_dataset(config.data, "train")
    states = []
    for broken in (False, True):
        vocabulary = create_vocabulary(config, dataset.class_names)
        if broken:
            assert vocabulary.bank is not None
            vocabulary.bank[[1, 3]] = torch.nan
        torch.manual_seed(0)
        forward = create_forward(create_model(config, vocabulary), config)
        training = create_training(config, forward, dataset, start_iteration=0)
        training.trainer.run(reading(training.loader), max_epochs=1, epoch_length=4)
        states.append(forward.model.state_dict())
        assert forward.model.class_names == ["sky", "road"]
        labels = next(iter(training.loader)).labels
        assert set(labels.unique().tolist()) == {0, 1, IGNORE_INDEX}
    assert differences(*states) == []
    assert all(tensor.isfinite().all() for tensor in states[0].values())


def test_validations_leave_no_trace_in_training(data: Path, tmp_path: Path) -> None:
    """One run validates after every step, with other text of the unseen classes than the other, which does once."""
    banks = [write_bank(tmp_path / f"{seed}.npy", 4, 6, unseen_seed=seed) for seed in (1, 2)]
    often = run_training(tmp_path / "often", *options(data, banks[0], "--train.validate_every=1"))
    once = run_training(tmp_path / "once", *options(data, banks[1], "--train.validate_every=4"))
    assert equal_runs(often / "last.pt", once / "last.pt", "model", "optimizer", "scheduler") == []
    assert differences(load_checkpoint(often / "last.pt").bank, load_checkpoint(once / "last.pt").bank)


@pytest.mark.parametrize(("text", "stop"), [("short bank", 2), ("tower", 3)], indirect=["text"])
def test_a_run_goes_on_bit_equal(
    data: Path, tmp_path: Path, text: Path | list[str], monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Stopped before a validation, and between two."""
    given = options(data, text, "--train.ema_decay=0.5")
    whole = run_training(tmp_path / "whole", *given)
    steps = count()
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "agreed", lambda *_: next(steps) // 2 + 1 >= stop)  # is asked twice a step
        cut = run_training(tmp_path / "cut", *given)
    assert load_checkpoint(cut / "last.pt").iteration == stop
    run_training(cut, *given)
    names = ("model", "average", "optimizer", "scheduler", "validation", "bank", "class_names")
    for file in ("last.pt", "best.pt"):
        assert equal_runs(whole / file, cut / file, *names) == []


def test_the_scores_are_those_of_models_with_these_names(data: Path, tmp_path: Path, text: Path | list[str]) -> None:
    folder = run_training(tmp_path / "run", *options(data, text))
    last = load_checkpoint(folder / "last.pt")
    assert last.class_names == tuple(NAMES) and last.vocabulary.seen == ("sky", "road")
    scores = last.validation.scores
    assert scores is not None and scores.zero_shot is not None and scores.zero_shot.unseen == (1, 3)

    everything, alone = np.zeros((4, 4), int), np.zeros((2, 2), int)
    of_all, of_unseen = restore_model(last), restore_model(last)
    assert of_all.class_names == NAMES and of_all.untrained_names == tuple(UNSEEN)
    last.vocabulary.set_names(of_unseen, UNSEEN)
    assert of_unseen.class_names == UNSEEN
    dataset = create_dataset(last.config.data, "val")
    for sample in (dataset[index] for index in range(3)):
        for model, counts, ids in ((of_all, everything, range(4)), (of_unseen, alone, (1, 3))):
            predicted = create_forward(model, last.config).predict_labels(sample.image[None] / 255)[0]
            for place, class_id in enumerate(ids):
                for other in range(len(ids)):
                    counts[place, other] += ((sample.label == class_id) & (predicted == other)).sum().item()

    def iou(counts: np.ndarray) -> list[float]:
        return [hits / (counts[k].sum() + counts[:, k].sum() - hits) for k, hits in enumerate(counts.diagonal())]

    assert scores.class_iou == pytest.approx(iou(everything))
    assert scores.zero_shot.seen_mean_iou == pytest.approx(np.mean(iou(everything)[::2]))
    assert scores.zero_shot.unseen_mean_iou == pytest.approx(np.mean(iou(everything)[1::2]))
    assert scores.zero_shot.unseen_alone_mean_iou == pytest.approx(np.mean(iou(alone)))


def test_a_run_tells_of_them(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank = run.parent / "bank.npy"
    run_training(run, *options(data, bank, "--train.ema_decay=0.5"))  # which is at its end, and tells it again
    out = capsys.readouterr().out
    assert "4 classes, 2 of them unseen in training" in out and "sheep (unseen) " in out
    best = load_checkpoint(run / "best.pt")
    assert best.validation.scores is not None and best.validation.scores.zero_shot is not None
    assert re.search(rf"^harmonic mean +{100 * best.validation.scores.decisive:.1f}$", out, re.MULTILINE)
    log = EventAccumulator(str(run / "tensorboard"))
    log.Reload()
    for name, value in best.validation.scores.zero_shot.named().items():
        events = {event.step: event.value for event in log.Scalars(f"1 validation/IoU, {name}")}
        assert events[best.iteration] == pytest.approx(value)
    assert "7 text/similarity of prompts" in log.Tags()["images"]


def test_the_best_is_the_best_in_the_harmonic_mean(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is highest in the third of four validations, where seen classes are worst, and told as often."""
    made = iter([(0.9, 0.1), (0.6, 0.2), (0.5, 0.5), (0.9, 0.3)])
    measure = validation.segmentation_scores

    def measured(*args: Any, **kwargs: Any) -> SegmentationScores:
        seen, unseen = next(made)
        scores = measure(*args, **kwargs)
        assert scores.zero_shot is not None
        means = {"seen_mean_iou": seen, "unseen_mean_iou": unseen, "harmonic_mean_iou": harmonic_mean(seen, unseen)}
        return replace(scores, mean_iou=seen, zero_shot=replace(scores.zero_shot, **means))

    monkeypatch.setattr(validation, "segmentation_scores", measured)
    bank = write_bank(tmp_path / "bank.npy", 4, 6)
    folder = run_training(tmp_path / "run", *options(data, bank, "--train.validate_every=1"))
    best, last = load_checkpoint(folder / "best.pt"), load_checkpoint(folder / "last.pt")
    assert (best.iteration, last.iteration) == (3, 4)
    assert best.validation.best_score == last.validation.best_score == 0.5


def test_evaluation_repeats_the_validation(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = load_checkpoint(run / "last.pt")
    assert last.validation.scores is not None
    evaluate.main(["--checkpoint", str(run / "last.pt"), "--device=cpu", "--output", str(tmp_path / "scores.json")])
    report = json.loads((tmp_path / "scores.json").read_text())
    assert {name: report[name] for name in ("class_iou", "zero_shot")} == {
        name: last.validation.scores.to_dict(NAMES)[name] for name in ("class_iou", "zero_shot")
    }
    assert "sofa (unseen) " in capsys.readouterr().out


SOURCES = [
    "--model.text_masks=1",
    "--loss.text_mask_weight=1",
    "--model.pixel_scores=0.5",
    "--loss.pixel_weight=10",
    "--model.center_text=true",
    "--model.classification=per_name",
]
"""All that scores can be made of."""


def test_the_search_finds_what_evaluation_with_its_options_gives(
    data: Path, tmp_path: Path, text: Path | list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    last = run_training(tmp_path / "run", *options(data, text, *SOURCES)) / "last.pt"
    given = ["--checkpoint", str(last), "--device=cpu", "--output", str(tmp_path / "scores.json")]
    evaluate.main([*given, "--search_calibration=true"])
    report = json.loads((tmp_path / "scores.json").read_text())
    *_, advice, _, _ = capsys.readouterr().out.splitlines()
    assert len(report["ways"]) == 10 and all(len(way["curve"]) == len(CALIBRATIONS) for way in report["ways"])
    curve = {point.pop("calibration"): point for point in report["ways"][0]["curve"]}
    best = curve[report["best"]["calibration"]]["harmonic_mean_iou"]
    assert best == max(point["harmonic_mean_iou"] for way in report["ways"] for point in way["curve"])

    assert advice.startswith("To evaluate or predict with the best: --model.classification per_name ")
    chosen = advice.partition(": ")[2].split()
    for calibration in (chosen[-1], "2"):
        evaluate.main([*given, *chosen[:-1], calibration])
        scores = json.loads((tmp_path / "scores.json").read_text())["zero_shot"]
        point = curve[float(calibration)]
        assert {name: scores[name] for name in point} == pytest.approx(point)


def test_the_search_tries_masks_that_pixels_name(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = write_bank(tmp_path / "bank.npy", 4, 6)
    sources = [*SOURCES[:-1], "--model.classification=pixels", "--model.score_join=product"]
    last = run_training(tmp_path / "run", *options(data, bank, *sources)) / "last.pt"
    given = ["--checkpoint", str(last), "--device=cpu", "--output", str(tmp_path / "scores.json")]
    evaluate.main([*given, "--search_calibration=true"])
    ways = {}
    for way in json.loads((tmp_path / "scores.json").read_text())["ways"]:
        ways.setdefault(way["classification"], []).append(way["curve"])
    assert {name: len(found) for name, found in ways.items()} == {"pixels": 1, "per_name": 10}
    assert "\npixels          0             1               " in capsys.readouterr().out
    for point in ways["pixels"][0][::5]:
        calibration = point.pop("calibration")
        evaluate.main([*given, f"--model.calibration={calibration}"])
        scores = json.loads((tmp_path / "scores.json").read_text())["zero_shot"]
        assert {name: scores[name] for name in point} == pytest.approx(point)


def test_scores_can_be_made_of_something_else_afterwards(data: Path, tmp_path: Path) -> None:
    bank = write_bank(tmp_path / "bank.npy", 4, 6)
    last = load_checkpoint(run_training(tmp_path / "run", *options(data, bank, *SOURCES)) / "last.pt")
    model = restore_model(last)
    assert model.scoring == Scoring("per_name", text_masks=1.0, pixel_scores=0.5)
    set_scoring(model, {"pixel_scores": 0.0, "calibration": 1.5, "query_scores": 0.0})
    assert model.scoring == Scoring("per_name", query_scores=0.0, text_masks=1.0, calibration=1.5)


def test_a_single_unseen_class_has_no_other_to_be_taken_for(data: Path, tmp_path: Path) -> None:
    bank = write_bank(tmp_path / "bank.npy", 4, 6)
    last = load_checkpoint(
        run_training(tmp_path / "run", *options(data, bank, *SOURCES, "--data.unseen=[sofa]")) / "last.pt"
    )
    assert last.validation.scores is not None and last.validation.scores.zero_shot is not None
    assert last.validation.scores.zero_shot.unseen_alone_mean_iou == 1.0


def test_a_search_is_for_models_with_unseen_classes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = write_bank(tmp_path / "bank.npy", 4, 6)
    last = run_training(tmp_path / "run", *options(data, bank, "--data.unseen=[]")) / "last.pt"
    line = failure(evaluate.main, ["--checkpoint", str(last), "--search_calibration=true"], capsys)
    assert 'it is for an "mtaclip" that was trained with --data.unseen' in line


def test_prediction_knows_all_classes(run: Path, data: Path, tmp_path: Path) -> None:
    image = data / "images" / "val" / "0.png"
    predict.main(["--checkpoint", str(run / "last.pt"), str(image), "--output", str(tmp_path), "--device=cpu"])
    last = load_checkpoint(run / "last.pt")
    expected = create_forward(restore_model(last), last.config).predict_labels(
        create_dataset(last.config.data, "val")[0].image[None] / 255
    )
    assert np.array_equal(np.asarray(Image.open(tmp_path / "0.png")), expected[0].numpy())
    page = (tmp_path / "index.html").read_text()
    assert all(f'data-name="{NAMES[class_id]}"' in page for class_id in expected.unique().tolist())


def test_a_run_without_unseen_classes_is_as_ever(data: Path, tmp_path: Path) -> None:
    bank = write_bank(tmp_path / "bank.npy", 4, 6)
    folder = run_training(tmp_path / "run", *options(data, bank, "--data.unseen=[]"))
    last = load_checkpoint(folder / "last.pt")
    assert last.validation.scores is not None and last.validation.scores.zero_shot is None
    assert last.model["prompts.embeddings"].shape == (4, 6) and last.vocabulary.unseen == ()


def test_unseen_classes_come_from_a_file(data: Path, tmp_path: Path) -> None:
    (tmp_path / "unseen.txt").write_text("sofa\nsheep\n")
    file = f"--data.unseen={tmp_path / 'unseen.txt'}"
    bank = write_bank(tmp_path / "bank.npy", 4, 6)
    last = load_checkpoint(run_training(tmp_path / "run", *options(data, bank, file)) / "last.pt")
    (tmp_path / "unseen.txt").unlink()  # the names are in the checkpoint
    assert load_checkpoint(tmp_path / "run" / "last.pt").config.data.unseen == ("sofa", "sheep")
    assert last.vocabulary.unseen == ("sheep", "sofa")


def test_a_checkpoint_of_before_there_were_unseen_classes(run: Path, tmp_path: Path, data: Path) -> None:
    bank = write_bank(tmp_path / "bank.npy", 4, 6)
    folder = run_training(tmp_path / "run", *options(data, bank, "--data.unseen=[]"))
    content = torch.load(folder / "last.pt", weights_only=True)
    del content["bank"], content["bank_encoder"], content["validation"]["scores"]["zero_shot"]
    content["validation"]["best_mean_iou"] = content["validation"].pop("best_score")
    lines = content["config"].splitlines()
    content["config"] = "\n".join(line for line in lines if "unseen:" not in line and "ignore_classes:" not in line)
    torch.save(content, tmp_path / "old.pt")
    old, new = load_checkpoint(tmp_path / "old.pt"), load_checkpoint(folder / "last.pt")
    assert old.validation == new.validation and old.class_names == new.class_names
    assert old.config == replace(new.config, data=replace(new.config.data, unseen=None))
    assert old.bank is None and old.vocabulary.unseen == ()
    states = [restore_model(checkpoint).state_dict() for checkpoint in (old, new)]
    assert differences(*states) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--data.unseen=[sheep,cow]"], "--data.unseen has 'cow', which is no class of the dataset; it has sky, sheep"),
        (["--data.unseen=[sheep,sheep]"], "--data.unseen has 'sheep' twice"),
        ([f"--data.unseen={json.dumps(NAMES)}"], "--data.unseen has all 4 classes of the dataset"),
        (["--data.unseen=empty.txt"], "empty.txt is empty"),
        (["--data.unseen=sheep"], "neither a list of names, as '[sheep,sofa]', nor a file that is there: sheep"),
        (["--model.arch=fpn"], "but this fpn knows no class but those that its head was trained on; take --model.arch"),
        (["--model.text_encoder=null"], "but this mtaclip has no text; take --model.arch mtaclip with a"),
        (["--loss.text_mask_weight=1"], "--loss.text_mask_weight trains what --model.text_masks reads: set both above"),
        (["--model.pixel_scores=1"], "--loss.pixel_weight trains what --model.pixel_scores reads: set both above"),
        (
            ["--model.classification=pixels"],
            "--model.classification pixels reads what --loss.pixel_weight trains: set that above 0",
        ),
        (["--model.text_positions=token"], "only text_positions='prompt' takes new names"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    arguments = options(data, write_bank(tmp_path / "bank.npy", 4, 6), *given)
    assert said in failure(train.main, [*TINY, *arguments, f"--train.output={tmp_path / 'run'}"], capsys)
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_with_other_unseen_classes(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options(data, run.parent / "bank.npy", "--train.ema_decay=0.5", "--data.unseen=[sofa]")
    line = failure(train.main, [*TINY, f"--train.output={run}", *given, "--train.resume=always"], capsys)
    assert "they differ in data.unseen" in line
