from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.comparison.trials import Trial
from tests.trainers.tiny_runs import MTACLIP, TINY, failure, write_folder
from trainers.assemble import create_dataset, resolve_unseen
from trainers.options.config import Config
from trainers.options.parsing import parse_config

KINDS = [*(option for option in TINY if not option.startswith("--data.dataset")), *MTACLIP, "--data.dataset=kinds"]


def seeded(config: Config, seed: int) -> Config:
    return replace(config, train=replace(config.train, seed=seed))


def names(config: Config) -> list[str]:
    return create_dataset(config.data, "train").class_names


def test_classes_are_drawn_from_those_that_training_shows() -> None:
    config = resolve_unseen(parse_config(KINDS))
    six, twelve, all_shown = (names(scaling.with_classes(config, count)) for count in (6, 12, 48))
    assert [len(six), len(twelve), len(all_shown)] == [7, 13, 49]  # with the background, which is always there
    assert six[0] == "background" and set(six) < set(twelve) < set(all_shown)
    assert not set(all_shown) & set(config.data.unseen_names)
    assert set(names(scaling.with_classes(seeded(config, 1), 6))) != set(six)


def test_more_classes_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(scaling.UserError, match=r"^--values 49: there are 48 classes to draw from"):
        scaling.with_classes(resolve_unseen(parse_config(KINDS)), 49)


def test_heads_of_one_seed_see_the_same_images(tmp_path: Path) -> None:
    write_folder(tmp_path, labels=(0, 1))
    config = parse_config([*TINY, *MTACLIP, "--data.dataset=folder", f"--data.root={tmp_path}"])
    trials = scaling.create_trials(config, "images", (1, 2), scaling.contenders(("mtaclip", "fpn"), {}), (0, 1))
    data = {key: [trial.config.data for trial in of_seeds] for key, of_seeds in trials.items()}
    assert data["mtaclip", 1] == data["fpn", 1] and data["mtaclip", 2] == data["fpn", 2]
    assert [each.train_images for each in data["fpn", 2]] == [2, 2]
    assert [each.train_images_seed for each in data["fpn", 2]] == [0, 1]
    assert len({trial.key for of_seeds in trials.values() for trial in of_seeds}) == 8


def test_the_page_has_a_line_for_each_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY, *MTACLIP, "--vary=classes", "--values=2,4", "--heads=mtaclip,fpn", "--iterations=1"]
    arguments += ["--controls=orthogonal"]
    arguments += ["--optim.warmup_iterations=0", "--seeds=0,1", f"--output={tmp_path}"]
    scaling.main(arguments)
    page = (tmp_path / "scaling.md").read_text()
    assert (
        "| classes | mtaclip | fpn | orthogonal text | mtaclip - fpn | mtaclip - orthogonal text |" in page
        and "\n| 2 | " in page
        and "\n| 4 | " in page
    )
    report = json.loads((tmp_path / "scaling.json").read_text())
    scores = report["scores"]["mtaclip"]["4"]["values"]
    assert len(scores) == 2 and all(0 <= score <= 1 for score in scores)
    assert (tmp_path / "scaling.png").stat().st_size > 1000
    capsys.readouterr()
    scaling.main([*arguments, "--report"])  # nothing is trained again
    assert "mtaclip - fpn" in capsys.readouterr().out


def test_a_missing_training_leaves_a_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY, *MTACLIP, "--heads=fpn", "--vary=classes", "--iterations=1", "--optim.warmup_iterations=0"]
    arguments += [f"--output={tmp_path}", "--seeds=0"]
    scaling.main([*arguments, "--values=2"])
    capsys.readouterr()
    scaling.main([*arguments, "--values=2,3", "--report"])
    assert "| 3 | nan |" in capsys.readouterr().out


def test_wrong_options_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--values names no number" in failure(scaling.main, [*TINY, "--values=,"], capsys)
    assert "--vary" in failure(scaling.main, [*TINY, "--values=3", "--vary=both"], capsys)
    assert "'true'" in failure(scaling.main, [*TINY, "--values=3", "--controls=true"], capsys)
    assert "'vit'" in failure(scaling.main, [*TINY, "--values=3", "--heads=vit", "--vary=classes"], capsys)


def test_a_trial_with_other_images_is_another_one(tmp_path: Path) -> None:
    config = parse_config([*TINY, "--data.dataset=folder", f"--data.root={tmp_path}"])
    assert Trial("a", scaling.with_images(config, 3)).key != Trial("a", config).key
