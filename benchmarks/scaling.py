"""How scores grow with classes or with images: ``python -m benchmarks.scaling --vary classes --values 6,12,24 ...``."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np

from benchmarks.comparison.class_groups import shown_classes
from benchmarks.comparison.controls import CONTROLS, write_controls
from benchmarks.comparison.datasets import usable_dataset
from benchmarks.comparison.figures import save_png
from benchmarks.comparison.heads import HEADS, Head, with_head
from benchmarks.comparison.options import comma_separated, comparison_parser, integers, parse_comparison
from benchmarks.comparison.page import PageCell, PageColumn, PageTable
from benchmarks.comparison.records import Record
from benchmarks.comparison.study import Study
from benchmarks.comparison.summary import Spread
from benchmarks.comparison.trials import Trial
from benchmarks.markdown import versions
from trainers.assemble import create_dataset, resolve_unseen
from trainers.foundation.errors import UserError, main_guard, user_errors
from trainers.options.config import Config
from trainers.options.data_config import DataConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Varied = Literal["classes", "images"]
DEFAULT_HEADS: Final = ("mtaclip", "mask2former", "fpn")
"""With text, the same without, and a head of smp's."""
BACKGROUND: Final = "background"

Table = Mapping[str, Mapping[int, Spread]]
"""Mean IoU of the seeds by contender and value; NaN where a training is missing."""


def with_images(config: Config, count: int) -> Config:
    """The configuration with so many training images, drawn by the seed of the training."""
    data = replace(config.data, train_images=count, train_images_seed=config.train.seed)
    return replace(config, data=data)


def with_classes(config: Config, count: int) -> Config:
    """The configuration with so many of the classes that training shows, drawn by its seed; all others are void.

    Fewer are among more. A background stays, and is not counted.

    Raises:
        UserError: There are fewer.
    """
    with user_errors():
        names = create_dataset(config.data, config.data.train_split).class_names
    shown = [name for name in names if name not in (BACKGROUND, *config.data.unseen_names)]
    if not 2 <= count <= len(shown):
        raise UserError(f"--values {count}: there are {len(shown)} classes to draw from; take 2 or more of them.")
    order = np.random.default_rng(config.train.seed).permutation(len(shown))
    drawn = {BACKGROUND, *(shown[index] for index in order[:count])}
    void = tuple(name for name in names if name not in drawn)
    return replace(config, data=replace(config.data, unseen=(), ignore_classes=(*config.data.ignore_classes, *void)))


CHANGES: Final = {"classes": with_classes, "images": with_images}


def contenders(heads: Sequence[Head], banks: Mapping[str, Path]) -> dict[str, Callable[[Config], Config]]:
    """What is compared, as changes of one configuration, by name.

    Args:
        heads: see `benchmarks.comparison.heads`.
        banks: files of other text for "mtaclip" by name.
    """
    changes: dict[str, Callable[[Config], Config]] = {head: partial(with_head, head=head) for head in heads}
    return changes | {f"{name} text": partial(_with_bank, bank=bank) for name, bank in banks.items()}


def _with_bank(config: Config, *, bank: Path) -> Config:
    return replace(config, model=replace(config.model, text_embeddings=str(bank)))


def create_trials(
    config: Config,
    varied: Varied,
    values: Sequence[int],
    changes: Mapping[str, Callable[[Config], Config]],
    seeds: Sequence[int],
) -> dict[tuple[str, int], list[Trial]]:
    """The trainings of all seeds by contender and value.

    Args:
        config: of all.
        varied: what the values count.
        values: how many.
        changes: see `contenders`.
        seeds: of each.

    Raises:
        UserError: There is no such head, or there are not so many classes.
    """
    trials: dict[tuple[str, int], list[Trial]] = {}
    for seed in seeds:
        of_seed = replace(config, train=replace(config.train, seed=seed))
        for value in values:
            changed = CHANGES[varied](of_seed, value)
            for name, change in changes.items():
                trials.setdefault((name, value), []).append(Trial(name, change(changed)))
    return trials


@cache
def _scored(data: DataConfig, folder: Path) -> list[str]:
    return shown_classes(usable_dataset(data, data.val_split, folder))


def score(trial: Trial, record: Record | None, folder: Path) -> float:
    """Mean IoU of a training over the classes that its validation images show; NaN if it is missing."""
    if record is None:
        return math.nan
    # Which images are trained on says nothing of those that are not.
    data = replace(trial.config.data, train_images=None, train_images_seed=0)
    value = record.scores.mean_over(_scored(data, folder))
    return math.nan if value is None else value


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line), trains what is missing and writes page and figure."""
    parser = comparison_parser("scaling", "Trains heads alike on more and more classes, or images.")
    parser.add_argument("--vary", choices=get_args(Varied), default="images", help="What grows.")
    parser.add_argument("--values", type=integers, required=True, help="Numbers of it, e.g. 10,30,100.")
    parser.add_argument("--heads", type=comma_separated, default=DEFAULT_HEADS, help=f"Among {', '.join(HEADS)}.")
    parser.add_argument(
        "--controls",
        type=comma_separated,
        default=(),
        help=f"Text that knows nothing of the classes, for mtaclip: among {', '.join(CONTROLS)}.",
    )
    options, config = parse_comparison(parser, arguments)
    if not options.values:
        raise UserError("--values names no number; give some, e.g. 10,30,100.")
    study = Study("scaling", f"Scores by number of {options.vary}", config, options)
    changes = contenders(options.heads, write_controls(config, study.folder / "banks", options.controls))
    trials = create_trials(resolve_unseen(config), options.vary, options.values, changes, options.seeds)
    every = [trial for of_seeds in trials.values() for trial in of_seeds]
    if options.plan:
        study.print_plan(every)
        return
    records = study.run(every)
    scores: dict[str, dict[int, Spread]] = {name: {} for name in changes}
    for (name, value), of_seeds in trials.items():
        found = [score(trial, trial.load_record(study.folder), study.folder) for trial in of_seeds]
        scores[name][value] = Spread(tuple(found))
    write(study, scores, records)


def table(scores: Table, varied: Varied) -> PageTable:
    """A line for each value, a column for each contender, and how far the first one is ahead of the others."""
    first, *others = scores
    columns = [
        PageColumn(varied, numeric=True),
        *(PageColumn(name, numeric=True) for name in scores),
        *(PageColumn(f"{first} - {other}", numeric=True) for other in others),
    ]
    rows = [
        [
            PageCell(str(value)),
            *(PageCell(str(of_values[value]), of_values[value].mean) for of_values in scores.values()),
            *(PageCell(own.minus(scores[other][value]).difference()) for other in others),
        ]
        for value, own in scores[first].items()
    ]
    note = "mIoU in %, mean ± standard deviation over the seeds; differences with half of their 95 % interval."
    return PageTable("Scores", columns, rows, note)


def figure(scores: Table, varied: Varied) -> Figure:
    """A line for each contender, with the standard deviation of the seeds."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(7, 4.5), layout="constrained")
    axes = drawn.subplots()
    for name, of_values in scores.items():
        means = [100 * spread.mean for spread in of_values.values()]
        deviations = [100 * spread.deviation for spread in of_values.values()]
        axes.errorbar(list(of_values), means, yerr=deviations, marker="o", capsize=3, label=name)
    values = list(next(iter(scores.values())))
    axes.set_xscale("log")
    axes.set_xticks(values, [str(value) for value in values])
    axes.minorticks_off()
    axes.set(xlabel=f"Training {varied}", ylabel="mIoU (%)")
    axes.legend()
    return drawn


def write(study: Study, scores: Table, records: Sequence[Record]) -> None:
    """Writes page, numbers and figure, and prints the page."""
    train, (height, width) = study.config.train, study.config.data.crop_size
    varied: Varied = study.options.vary
    command = shlex.join(["python", "-m", "benchmarks.scaling", *study.options.given])
    machines = "; ".join(dict.fromkeys(record.machine for record in records))
    what = {
        "classes": "Each seed draws its classes from those that training shows; pixels of all others are void.",
        "images": "Each seed draws its training images; all validation images are scored.",
    }[varied]
    introduction = (
        f"Made by `{command}` with {versions()}; trained on {machines}.\n\n"
        f"Each training: {train.iterations} steps of {train.batch_size} crops of {height}x{width}. {what} Fewer are "
        "among more. Scores are those after the last step, over the classes that the validation images show."
    )
    page = "\n\n".join([f"# {study.title}", introduction, table(scores, varied).to_markdown()])
    (study.folder / "scaling.md").write_text(page + "\n", encoding="utf-8")
    numbers = {name: {value: asdict(spread) for value, spread in each.items()} for name, each in scores.items()}
    report = {"command": command, "versions": versions(), "scores": numbers}
    (study.folder / "scaling.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    save_png(figure(scores, varied), study.folder / "scaling.png")
    print(page)


if __name__ == "__main__":
    main()
