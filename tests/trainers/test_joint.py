"""Runs on several data sets, and what evaluates and predicts with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.trainers.joint_sets import NAMES, NO_TEXT, PARK, STREET, TOWER, options, write_set, write_sets
from tests.trainers.run.test_kills import differences
from tests.trainers.tiny_runs import TINY, failure, run_training
from trainers import check_data, evaluate, predict, train
from trainers.assemble import create_dataset, restore_model
from trainers.assemble import names as names_module
from trainers.options.parsing import config_from_yaml, parse_config
from trainers.run.checkpoints import load_checkpoint


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_training(tmp_path_factory.mktemp("runs") / "run", *options(sets, *TOWER))


def scores_of(checkpoint: Path, output: Path, *more: str) -> dict[str, Any]:
    evaluate.main([f"--checkpoint={checkpoint}", "--device=cpu", f"--output={output / 'scores.json'}", *more])
    return json.loads((output / "scores.json").read_text())


def test_a_run_is_validated_on_each_set_and_chosen_by_their_mean(run: Path) -> None:
    last, best = (load_checkpoint(run / name) for name in ("last.pt", "best.pt"))
    assert last.class_names == tuple(NAMES) and last.config.data.dataset == "joint"
    sets = last.validation.sets
    assert {name: one.class_names for name, one in sets.items()} == {
        "street": ("sky", "car", "person"),
        "park": ("sky", "tree", "person", "dog"),
    }
    assert last.validation.scores is not None and best.validation.scores is not None
    assert last.validation.scores.mean_iou == fmean(one.scores.mean_iou for one in sets.values())
    assert best.validation.scores.mean_iou == last.validation.best_score
    shared = [sets["street"].scores.class_iou[0], sets["park"].scores.class_iou[0]]
    assert last.validation.scores.class_iou[0] == fmean(value for value in shared if value is not None)
    assert config_from_yaml((run / "config.yaml").read_text()) == last.config
    assert sorted(file.name for file in (run / "overlays").iterdir()) == ["park", "street"]


def test_the_log_has_each_set(run: Path) -> None:
    log = EventAccumulator(str(run / "tensorboard")).Reload()
    validation = load_checkpoint(run / "last.pt").validation
    for name, one in validation.sets.items():
        assert log.Scalars(f"1 validation/{name}/IoU, mean")[-1].value == pytest.approx(one.scores.mean_iou)
        assert f"7 text/{name}/similarity of prompts" in log.Tags()["images"]
        assert f"3 validation pictures/{name}/0" in log.Tags()["images"]
    assert log.Scalars("1 validation/IoU, mean")[-1].value == pytest.approx(validation.scores.mean_iou)
    assert "4 validation IoU/street/car" in log.Tags()["scalars"]


@pytest.mark.parametrize(
    "more",
    [
        TOWER,
        [*TOWER, "--model.num_queries=9", "--loss.assignment=by_class", "--loss.absent_mask_weight=5"],
        [
            *TOWER,
            *(f"--{name}=1" for name in ("model.text_masks", "model.pixel_scores", "loss.text_mask_weight")),
            "--loss.pixel_weight=10",
            "--model.center_text=true",
            "--train.ema_decay=0.5",
        ],
        NO_TEXT,
    ],
    ids=["tower", "by class", "text masks and pixels", "no text"],
)
def test_evaluation_finds_what_validation_found(
    sets: Path, more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_training(tmp_path / "run", *options(sets, *more))
    last = load_checkpoint(folder / "last.pt")
    found = scores_of(folder / "last.pt", tmp_path)
    assert last.validation.scores is not None
    assert found["mean_iou"] == pytest.approx(last.validation.scores.mean_iou)
    for name, one in last.validation.sets.items():
        assert found["sets"][name]["class_iou"] == pytest.approx(
            dict(zip(one.class_names, one.scores.class_iou, strict=True))
        )
    capsys.readouterr()
    alone = scores_of(folder / "last.pt", tmp_path, "--data.set=park")
    assert alone["class_iou"] == found["sets"]["park"]["class_iou"]
    out = capsys.readouterr().out
    assert "park:\nclass, in %" in out and "street" not in out


def test_evaluation_prints_each_set_and_their_mean(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = scores_of(run / "best.pt", tmp_path)
    out = capsys.readouterr().out
    assert "street:\nclass, in %" in out and "park:\nclass, in %" in out
    (mean,) = (line for line in out.splitlines() if line.startswith("mean of the sets"))
    assert mean.split()[4] == f"{100 * found['mean_iou']:.1f}"
    assert evaluate.evaluate(
        load_checkpoint(run / "best.pt"), root=None, split=None, device="cpu"
    ).mean_iou == pytest.approx(found["mean_iou"])


def test_a_set_that_was_never_trained_on_is_evaluated_by_its_own_names(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path / "zoo", ["dog", "zebra", "Sky"], images=3, seed=2)
    write_set(tmp_path / "farm", ["cow", "pig"], images=2, seed=3)
    (tmp_path / "other.yaml").write_text("- {root: zoo}\n- {root: farm}\n")
    other = [f"--data.sets={tmp_path / 'other.yaml'}", f"--data.root={tmp_path}"]
    found = scores_of(run / "best.pt", tmp_path, *other)["sets"]
    assert list(found["zoo"]["class_iou"]) == ["dog", "zebra", "sky"]
    assert found["zoo"]["zero_shot"]["unseen"] == ["zebra"] and "zero_shot" not in found["farm"]
    model = restore_model(load_checkpoint(run / "best.pt"))
    model.set_class_names(["dog", "zebra", "sky"])  # as on any model
    assert list(model.untrained_names) == ["zebra"]
    assert "zebra (unseen)" in capsys.readouterr().out
    line = failure(evaluate.main, [f"--checkpoint={run / 'best.pt'}", *other, "--data.set=sea"], capsys)
    assert line == "error: --data.set sea is none of the data sets; there are zoo, farm."
    line = failure(evaluate.main, [f"--checkpoint={run / 'best.pt'}", *other, "--names=a,b"], capsys)
    assert line.startswith("error: --names is for a model of one data set")


def test_a_model_of_one_data_set_is_evaluated_on_others(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data.dataset=folder", f"--data.root={sets.parent / 'park'}"]
    folder = run_training(tmp_path / "run", *options(sets)[:-3], *data, *TOWER)
    assert load_checkpoint(folder / "last.pt").class_names == tuple(PARK)
    other = [f"--data.sets={sets}", f"--data.root={sets.parent}", "--data.set=street"]
    found = scores_of(folder / "last.pt", tmp_path, *other)
    assert list(found["class_iou"]) == ["sky", "car", "person"] and found["zero_shot"]["unseen"] == ["car"]
    line = failure(evaluate.main, [f"--checkpoint={folder / 'last.pt'}", "--data.set=street"], capsys)
    assert "trained on one alone: add --data.sets FILE" in line


def test_a_model_without_names_is_evaluated_on_its_own_data_alone(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_training(tmp_path / "run", "--model.arch=fpn")
    other = [f"--data.sets={sets}", f"--data.root={sets.parent}"]
    line = failure(evaluate.main, [f"--checkpoint={folder / 'last.pt'}", *other], capsys)
    assert "names of their own, which this fpn cannot take" in line


def test_a_bank_may_have_more_names_in_any_order(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["zebra", "Dog", "tree", "cow", "person", "car", "sky"]
    torch.manual_seed(0)
    text = torch.randn(len(named), 6)
    save_file({"bank": text}, tmp_path / "bank.safetensors", metadata={"class_names": json.dumps(named)})
    bank = f"--model.text_embeddings={tmp_path / 'bank.safetensors'}"
    last = load_checkpoint(run_training(tmp_path / "run", *options(sets, bank)) / "last.pt")
    assert last.bank is not None and torch.equal(last.bank, text[[6, 5, 4, 2, 1]])
    monkeypatch.setattr(names_module, "embed_sentences", lambda _: pytest.fail("the file has the text"))
    (tmp_path / "other.yaml").write_text("- {root: park, rename: {dog: zebra}}")
    other = [f"--data.sets={tmp_path / 'other.yaml'}", f"--data.root={sets.parent}"]
    more = f"--text_embeddings={tmp_path / 'bank.safetensors'}"
    found = scores_of(tmp_path / "run" / "last.pt", tmp_path, *other, more)
    assert found["sets"]["park"]["zero_shot"]["unseen"] == ["zebra"]
    (tmp_path / "other.yaml").write_text("- {root: park, rename: {dog: yak}}")
    line = failure(evaluate.main, [f"--checkpoint={tmp_path / 'run' / 'last.pt'}", *other, more], capsys)
    assert "has no text of yak; make a bank" in line


def test_prediction_knows_the_names_of_all_sets(run: Path, sets: Path, tmp_path: Path) -> None:
    image = sets.parent / "street" / "images" / "val" / "0.png"
    predict.main([f"--checkpoint={run / 'best.pt'}", f"--output={tmp_path}", str(image)])
    page = (tmp_path / "index.html").read_text()
    assert (tmp_path / "0.png").exists() and any(f'data-name="{name}"' in page for name in NAMES)


def test_a_run_goes_on_bit_for_bit_also_where_its_data_have_moved(
    run: Path, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut"
    cut.mkdir()
    shutil.copy(run / "previous.pt", cut / "last.pt")
    shutil.copy(run / "previous.pt", cut / "best.pt")  # it stays the best if the last validation is no better
    assert load_checkpoint(cut / "last.pt").iteration == 2
    for name in ("street", "park"):
        shutil.copytree(sets.parent / name, tmp_path / "moved" / name)
    shutil.copy(sets, tmp_path / "moved" / "sets.yaml")
    run_training(cut, *options(tmp_path / "moved" / "sets.yaml", *TOWER))
    whole, resumed = (vars(load_checkpoint(folder / "last.pt")) | {"config": None} for folder in (run, cut))
    assert differences(whole, resumed) == []
    text = "- {root: street, rename: {Pedestrian: person}, weight: 2}\n- {root: park, weight: 1}\n"
    write_sets(tmp_path / "moved", text)
    arguments = [*TINY, f"--train.output={cut}", *options(tmp_path / "moved" / "sets.yaml", *TOWER)]
    line = failure(train.main, arguments, capsys)
    assert "data.sets.street.weight was None and is 2.0" in line and ".root was" not in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {root: street}\n- {root: park, rename: {sky: sea}}\n", "street and park have no class in common"),
        ("- {root: street, rename: {walker: person}}\n- {root: park}\n", "rename of the data set street has 'walker'"),
        ("- {root: street, weight: 0}\n- {root: park, weight: 1}\n", "The weight of the set street is 0.0, but must"),
        ("- {root: street, weight: 2}\n- {root: park}\n", "gives some sets a weight, but park none"),
        ("- {root: street, channels: 4}\n- {root: park}\n", "--data.sets has: street 4, park 3"),
        ("- {root: street}\n- {root: nowhere}\n", "nowhere does not exist"),
        ("- {root: street}\n- {root: empty}\n", "holds no image"),
        ("- {root: street}\n- {root: street}\n", "two sets of the name street"),
        ("- {root: street, name: a/b}\n", "The name of a data set names folders, too, which 'a/b' cannot"),
        ("- {root: street, roots: park}\n", "data set street: Group 'set' does not accept option 'roots'"),
        ("[]\n", "must hold a list of data sets"),
        ("root: street\n", "must hold a list of data sets"),
        ("- {root: street\n", "is no YAML"),
    ],
)
def test_sets_that_cannot_be_trained_on(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = write_sets(tmp_path, text)
    (tmp_path / "empty" / "images" / "train").mkdir(parents=True)
    (tmp_path / "empty" / "classes.txt").write_text("sky\nsea\n")
    line = failure(train.main, [*TINY, f"--train.output={tmp_path / 'run'}", *options(sets, *TOWER)], capsys)
    assert said in line and not (tmp_path / "run" / "last.pt").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--data.unseen=[dog]"], "--data.unseen, --data.ignore_ids and --data.ignore_classes are for one data set"),
        (["--model.arch=fpn"], "--data.sets needs a model whose classes can be left out image by image, which fpn is"),
        (["--data.sets=nowhere.yaml"], "--data.sets cannot be read"),
        (["--model.text_encoder=bank"], "A bank of text needs --model.text_embeddings FILE"),
    ],
)
def test_options_that_do_not_go_with_several_sets(
    more: list[str], said: str, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TINY, f"--train.output={tmp_path / 'run'}", *options(sets, *TOWER), *more]
    assert said in failure(train.main, arguments, capsys)


def test_joint_without_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert 'dataset "joint" needs --data.sets FILE' in failure(train.main, ["--data.dataset=joint"], capsys)


def test_check_data_reports_each_set_and_what_they_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = write_sets(tmp_path, "- {root: street, rename: {car: dog cart}}\n- {root: park}\n")
    arguments = [f"--data.sets={sets}", f"--data.root={tmp_path}"]
    check_data.main(arguments)
    out = capsys.readouterr().out
    assert "street\n======\ntrain: 2 images, 0 of them cannot be used" in out
    assert "park\n====\ntrain: 5 images" in out
    assert "All data sets together: 6 classes, 1 of them in more than one." in out
    lines = [line.split() for line in out.splitlines()]
    assert ["class", "street", "park"] in lines and ["sky", "Sky", "sky"] in lines
    assert ["dog", "cart", "car", "-"] in lines and ["dog", "-", "dog"] in lines
    assert "    - dog cart (street) ~ dog (park)" in out and "pedestrian (street) ~" not in out
    text = torch.eye(6)
    text[4] = text[2] + 0.1 * text[4]
    file = tmp_path / "bank.safetensors"
    names = create_dataset(parse_config(arguments).data, "train").class_names
    assert [names[2], names[4]] == ["pedestrian", "person"]
    save_file({"bank": text}, file, metadata={"class_names": json.dumps(names)})
    check_data.main([*arguments, f"--model.text_embeddings={file}"])
    assert "    - pedestrian (street) ~ person (park)" in capsys.readouterr().out
    check_data.main([*arguments, f"--names={tmp_path / 'names.txt'}"])
    assert (tmp_path / "names.txt").read_text().split("\n")[:-1] == names


def test_check_data_ends_where_nothing_can_be_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = write_sets(tmp_path, "- {root: street, rename: {sky: heaven}}\n- {root: park, rename: {person: people}}\n")
    line = failure(check_data.main, [f"--data.sets={sets}", f"--data.root={tmp_path}"], capsys)
    assert "have no class in common" in line
    assert len(STREET) == 3
    (tmp_path / "park" / "annotations" / "val" / "0.png").write_text("no picture")
    write_sets(tmp_path)
    write_sets(tmp_path, "- {root: street}\n- {root: park}\n")
    with pytest.raises(SystemExit) as stopped:
        check_data.main([f"--data.sets={sets}", f"--data.root={tmp_path}"])
    assert stopped.value.code == 1
