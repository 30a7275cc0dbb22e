"""Several data sets, each alone and all as one: ``python -m benchmarks.joint --sets FILE.yaml --config FILE ...``."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from benchmarks.comparison.class_groups import shown_classes
from benchmarks.comparison.datasets import usable_dataset
from benchmarks.comparison.options import comparison_parser, parse_comparison
from benchmarks.comparison.page import PageCell, PageColumn, PageTable
from benchmarks.comparison.records import Record
from benchmarks.comparison.study import Study
from benchmarks.comparison.summary import Spread
from benchmarks.comparison.trials import Trial
from benchmarks.comparison.ways import NO_TEXT, no_text
from benchmarks.markdown import versions
from trainers.data.joint import JointDataset
from trainers.foundation.errors import UserError, main_guard
from trainers.options.config import Config

JOINT, JOINT_NO_TEXT = "all together", f"all together, {NO_TEXT}"
MEAN = "mean of the sets"


@dataclass(frozen=True)
class Column:
    """The mean IoU of one way to train, by data set.

    Attributes:
        name: the way's.
        sets: of each seed, over the classes that the set's validation images show; NaN where a training is missing.
    """

    name: str
    sets: Mapping[str, Spread]


def alone(name: str) -> str:
    """What the training on one data set is called."""
    return f"{name} alone"


def create_trials(config: Config, shares: Mapping[str, float], seeds: Sequence[int]) -> list[Trial]:
    """All sets together with and without text, and each alone, with as many samples of it as in the former.

    Together, a step has the samples of as many steps as there are sets: with as many samples in smaller steps all sets
    scored less, see docs/results.md.

    Args:
        config: of all trainings; its batch is that of one data set, and its iterations those of all together.
        shares: the part of the samples that comes from each set.
        seeds: of each way.
    """
    count, steps = len(shares), config.train.iterations
    joint = replace(config, train=replace(config.train, batch_size=config.train.batch_size * count))
    ways = {JOINT: _with_steps(joint, steps), JOINT_NO_TEXT: _with_steps(no_text(joint), steps)}
    for one in config.data.joint_sets:
        own = replace(config, data=replace(config.data, sets=(one,)))
        ways[alone(one.name)] = _with_steps(own, max(1, round(steps * count * shares[one.name])))
    return [
        Trial(way, replace(changed, train=replace(changed.train, seed=seed)))
        for way, changed in ways.items()
        for seed in seeds
    ]


def _with_steps(config: Config, iterations: int) -> Config:
    """The configuration with other iterations, validated after the last alone."""
    train = replace(config.train, iterations=iterations, validate_every=iterations)
    if train.checkpoint_every is None:
        train = replace(train, checkpoint_every=config.train.validate_every)
    return replace(config, train=train)


def columns(records: Sequence[Record], classes: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> list[Column]:
    """The ways to train, as columns of a table.

    Args:
        records: of the trainings.
        classes: names of those that means are over, by data set.
        seeds: of the trainings.
    """
    found = {(record.contender, record.seed): record for record in records}

    def scores(way: str, name: str) -> Spread:
        values = []
        for seed in seeds:
            record = found.get((way, seed))
            value = None if record is None else record.evaluations[name].mean_over(classes[name])
            values.append(math.nan if value is None else value)
        return Spread(tuple(values))

    ways = {"alone": alone, JOINT: lambda _: JOINT, JOINT_NO_TEXT: lambda _: JOINT_NO_TEXT}
    made = []
    for title, way in ways.items():
        sets = {name: scores(way(name), name) for name in classes}
        mean = Spread(tuple(fmean(values) for values in zip(*(one.values for one in sets.values()), strict=True)))
        made.append(Column(title, sets | {MEAN: mean}))
    return made


def table(made: Sequence[Column]) -> PageTable:
    """A line for each data set, and for their mean: the ways, and how far all together are ahead of the others."""
    separate, joint, without = made
    names = ("data set", *(column.name for column in made), "together - alone", f"text - {NO_TEXT}")
    headings = [PageColumn(names[0]), *(PageColumn(name, numeric=True) for name in names[1:])]
    rows = []
    for name in joint.sets:
        spreads = [str(column.sets[name]) for column in made]
        differences = [joint.sets[name].minus(other.sets[name]).difference() for other in (separate, without)]
        rows.append([PageCell(name), *map(PageCell, [*spreads, *differences])])
    note = "mIoU in %, mean ± standard deviation over the seeds; differences with half of their 95 % interval."
    return PageTable("Scores", headings, rows, note)


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line), trains what is missing and writes the page."""
    parser = comparison_parser(
        "joint",
        "Trains on the data sets in --sets FILE, short for the trainer's --data.sets: on each alone, on all, and on "
        "all without text.",
    )
    given = sys.argv[1:] if arguments is None else arguments
    options, config = parse_comparison(parser, [re.sub("^--sets(?==|$)", "--data.sets", each) for each in given])
    if not config.data.joint_sets:
        raise UserError(
            "--sets FILE is missing: it lists the data sets, as trainers/configs/camvid_msrc_ccp.yaml does."
        )
    study = Study("joint", "Several data sets as one", config, options)
    train_set = usable_dataset(config.data, config.data.train_split, study.folder)
    val_set = usable_dataset(config.data, config.data.val_split, study.folder)
    assert isinstance(train_set, JointDataset) and isinstance(val_set, JointDataset)
    trials = create_trials(config, train_set.shares, options.seeds)
    if options.plan:
        study.print_plan(trials)
        return
    records = study.run(trials)
    classes = {name: shown_classes(each) for name, each in val_set.sets.items()}
    write(study, trials, columns(records, classes, options.seeds), records)


def write(study: Study, trials: Sequence[Trial], made: Sequence[Column], records: Sequence[Record]) -> None:
    """Writes page and numbers, and prints the page."""
    height, width = study.config.data.crop_size
    command = shlex.join(["python", "-m", "benchmarks.joint", *study.options.given])
    steps = {trial.contender: trial.config.train for trial in trials}
    machines = "; ".join(dict.fromkeys(record.machine for record in records))
    introduction = (
        f"Made by `{command}` with {versions()}; trained on {machines}.\n\n"
        f"Crops of {height}x{width}. Steps: "
        f"{', '.join(f'{way} {its.iterations} of {its.batch_size} crops' for way, its in steps.items())}; so a data "
        "set gives as many samples alone as together with the others. Scores are those after the last step, over the "
        "classes that the validation images show, each data set by its own."
    )
    page = "\n\n".join([f"# {study.title}", introduction, table(made).to_markdown()])
    folder: Path = study.folder
    (folder / "joint.md").write_text(page + "\n", encoding="utf-8")
    report = {
        "command": command,
        "versions": versions(),
        "steps": {way: its.iterations for way, its in steps.items()},
        "columns": [asdict(each) for each in made],
    }
    (folder / "joint.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
