from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks import joint
from benchmarks.comparison.trials import Trial
from tests.trainers.joint_sets import TOWER, options, write_sets
from tests.trainers.tiny_runs import TINY, failure
from trainers.options.parsing import parse_config


def test_each_set_gives_as_many_samples_alone_as_together(tmp_path: Path) -> None:
    sets = write_sets(tmp_path)
    config = parse_config([*TINY, *options(sets, *TOWER, "--train.iterations=100", "--train.validate_every=30")])
    trials = joint.create_trials(config, {"street": 0.2, "park": 0.8}, seeds=(0, 1))
    steps = {trial.contender: trial.config.train.iterations for trial in trials}
    assert steps == {
        "all together": 100,
        "all together, no text": 100,
        "street alone": 40,
        "park alone": 160,
    }
    batches = {trial.contender: trial.config.train.batch_size for trial in trials}
    assert batches == {"all together": 4, "all together, no text": 4, "street alone": 2, "park alone": 2}
    assert len({trial.key for trial in trials}) == len(trials) == 8
    without = next(trial for trial in trials if trial.contender == "all together, no text").config
    assert without.model.text_encoder is None and without.data.sets == config.data.sets
    assert all(trial.config.train.checkpoint_every == 30 for trial in trials)


def test_the_page_compares_each_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    sets = write_sets(tmp_path / "data")
    given = [option for option in options(sets, *TOWER) if not option.startswith("--data.sets")]
    arguments = [*TINY, *given, f"--sets={sets}", "--iterations=1", "--optim.warmup_iterations=0", "--seeds=0,1"]
    joint.main([*arguments, f"--output={tmp_path / 'out'}"])
    page = (tmp_path / "out" / "joint.md").read_text()
    assert "| street |" in page and "| park |" in page and "| mean of the sets |" in page
    assert "Steps: all together 1 of 4 crops, all together, no text 1 of 4 crops, street alone 1 of 2 crops" in page
    report = json.loads((tmp_path / "out" / "joint.json").read_text())
    for column in report["columns"]:
        values = column["sets"]
        assert len(values["street"]["values"]) == 2 and not math.isnan(sum(values["park"]["values"]))
        assert values["mean of the sets"]["values"][0] == pytest.approx(
            (values["street"]["values"][0] + values["park"]["values"][0]) / 2
        )
    capsys.readouterr()
    joint.main([*arguments, f"--output={tmp_path / 'out'}", "--report"])  # nothing is trained again
    assert "together - alone" in capsys.readouterr().out


def test_sets_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--sets" in failure(joint.main, [], capsys)


def test_a_trial_knows_its_sets(tmp_path: Path) -> None:
    sets = write_sets(tmp_path)
    keys = set()
    for text in ("- {root: street}\n", "- {root: park}\n", "- {root: street, weight: 2}\n"):
        keys.add(Trial("a", parse_config([*TINY, *options(write_sets(tmp_path, text))])).key)
    assert len(keys) == 3 and sets.exists()
