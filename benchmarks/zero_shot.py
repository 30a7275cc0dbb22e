"""Classes that were never labelled, by mask and by pixel: ``python -m benchmarks.zero_shot --config FILE ...``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.comparison.figures import save_png
from benchmarks.comparison.options import comma_separated, comparison_parser, parse_comparison
from benchmarks.comparison.page import PageCell, PageColumn, PageTable
from benchmarks.comparison.records import Record, save_json
from benchmarks.comparison.study import Study
from benchmarks.comparison.summary import Spread
from benchmarks.comparison.trials import RUNS, Trial
from benchmarks.comparison.unseen import ALL, SourceScores, UnseenScores, load_unseen_scores, score_sources
from benchmarks.comparison.ways import NO_TEXT, WAYS
from benchmarks.markdown import versions
from trainers.assemble import resolve_unseen
from trainers.foundation.errors import UserError, main_guard
from trainers.run.checkpoints import LAST, load_checkpoint
from trainers.scores.calibration import CalibrationPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "unseen"
"""Where what `score_sources` found lies, one file a training, in the comparison's folder."""


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line), trains what is missing and writes the page."""
    parser = comparison_parser("zero_shot", "Trains without some classes, and scores them by each source of names.")
    parser.add_argument("--ways", type=comma_separated, default=tuple(WAYS), help=f"Among {', '.join(WAYS)}.")
    options, config = parse_comparison(parser, arguments)
    if unknown := [way for way in options.ways if way not in WAYS]:
        raise UserError(f"There is no way {unknown[0]!r}; choose among {', '.join(WAYS)}.")
    config = resolve_unseen(config)
    if not config.data.unseen_names:
        raise UserError("No class is kept from training; name some with --data.unseen.")
    trials = [
        Trial(way, WAYS[way](replace(config, train=replace(config.train, seed=seed))))
        for way in options.ways
        for seed in options.seeds
    ]
    study = Study("zero_shot", "Classes that were never labelled", config, options)
    if options.plan:
        study.print_plan(trials)
        return
    records = study.run(trials, keep=[trial for trial in trials if trial.contender != NO_TEXT])
    found = [
        (trial, scores)
        for trial in trials
        if trial.contender != NO_TEXT and (scores := _unseen_scores(trial, study.folder)) is not None
    ]
    write(study, records, found)


def _unseen_scores(trial: Trial, folder: Path) -> UnseenScores | None:
    """What each source says after a training; looked at once. ``None`` if it was not trained."""
    file = folder / FOLDER / trial.record_file(folder).name
    if not file.exists():
        checkpoint = folder / RUNS / trial.key / LAST
        if not checkpoint.exists():
            return None
        save_json(score_sources(load_checkpoint(checkpoint)), file)
    return load_unseen_scores(file)


Rows = Mapping[tuple[str, str], Sequence[SourceScores]]
"""The scores of all seeds by contender and source."""


def write(study: Study, records: Sequence[Record], found: Sequence[tuple[Trial, UnseenScores]]) -> None:
    """Writes page, numbers and figure, and prints the page.

    Args:
        study: what was trained.
        records: of all trainings.
        found: the trainings with text, with what their sources say.
    """
    without_text = [record for record in records if record.contender == NO_TEXT]
    rows: dict[tuple[str, str], list[SourceScores]] = {}
    for trial, scores in found:
        for source, each in scores.sources.items():
            rows.setdefault((trial.contender, source), []).append(each)
    data, train = study.config.data, study.config.train
    height, width = data.crop_size
    command = shlex.join(["python", "-m", "benchmarks.zero_shot", *study.options.given])
    machines = "; ".join(dict.fromkeys(record.machine for record in records))
    introduction = (
        f"Made by `{command}` with {versions()}; trained on {machines}.\n\n"
        f"Each training: {train.iterations} steps of {train.batch_size} crops of {height}x{width}, in which pixels of "
        f"the classes {', '.join(data.unseen_names)} are void and their names unknown. mIoU in %, mean ± standard "
        "deviation over the seeds."
    )
    page = "\n\n".join([f"# {study.title}", introduction, table(rows, without_text).to_markdown()])
    study.folder.mkdir(parents=True, exist_ok=True)
    (study.folder / "zero_shot.md").write_text(page + "\n", encoding="utf-8")
    numbers = [
        {"contender": contender, "source": source, "seeds": [asdict(each) for each in seeds]}
        for (contender, source), seeds in rows.items()
    ]
    plain = [{"seed": record.seed, "seen_alone": record.scores.mean_iou} for record in without_text]
    report = {"command": command, "versions": versions(), "rows": numbers, NO_TEXT: plain}
    (study.folder / "zero_shot.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if rows:
        save_png(figure(rows), study.folder / "zero_shot.png")
    print(page)


def table(rows: Rows, without_text: Sequence[Record]) -> PageTable:
    """What each source reaches, without and with a calibration."""
    scores = ("seen", "unseen", "harmonic")
    columns = [
        *(PageColumn(name) for name in ("trained", "named by")),
        *(PageColumn(name, numeric=True, best="high") for name in scores),
        *(PageColumn(f"{name}, calibrated", numeric=True, best="high") for name in scores),
        *(PageColumn(f"{name} alone", numeric=True, best="high") for name in scores[:2]),
    ]
    cells = []
    for (contender, source), seeds in rows.items():
        points = [each.curve[0] for each in seeds], [each.fitted for each in seeds]
        values = [[getattr(point, f"{name}_mean_iou") for point in of_seeds] for of_seeds in points for name in scores]
        values += [[each.seen_alone for each in seeds], [each.unseen_alone for each in seeds]]
        cells.append([PageCell(contender), PageCell(source), *map(_spread, values)])
    if without_text:
        means = [record.scores.mean_iou or 0.0 for record in without_text]
        dashes = [PageCell("-")] * 6
        cells.append([PageCell(NO_TEXT), PageCell("class head"), *dashes, _spread(means), PageCell("-")])
    note = (
        "Seen and unseen: all classes may be predicted. Calibrated: a constant is taken off the logits of seen "
        "classes, the one that gives one half of the validation images the highest harmonic mean for the other half. "
        "Alone: of pixels of seen classes, the seen one with the highest score, and the same of the unseen ones."
    )
    return PageTable("Scores", columns, cells, note)


def _spread(values: Sequence[float]) -> PageCell:
    spread = Spread(tuple(values))
    return PageCell(str(spread), spread.mean)


def figure(rows: Rows) -> Figure:
    """Unseen against seen classes, a line for each source: its calibrations, from none upwards."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9, 6), layout="constrained")
    axes = drawn.subplots()
    for (contender, source), seeds in rows.items():
        curves = zip(*(each.curve for each in seeds), strict=True)
        seen, unseen = zip(*map(_mean_point, curves), strict=True)
        name = contender if source == ALL else f"{contender}: {source}"
        (line,) = axes.plot(seen, unseen, marker=".", linewidth=2.5 if source == ALL else 1.2, label=name)
        axes.plot(seen[:1], unseen[:1], marker="o", color=line.get_color())
    axes.set_xlabel("Mean IoU of the seen classes (%)")
    axes.set_ylabel("Mean IoU of the unseen classes (%)")
    axes.set_title("From no calibration (large dot) to a strong one, mean over the seeds", fontsize=10)
    axes.legend(fontsize=8)
    return drawn


def _mean_point(points: Sequence[CalibrationPoint]) -> tuple[float, float]:
    """Mean over the seeds of seen and unseen, in %."""
    seen, unseen = (fmean(getattr(point, f"{name}_mean_iou") for point in points) for name in ("seen", "unseen"))
    return 100 * seen, 100 * unseen


if __name__ == "__main__":
    main()
