"""A comparison from its trials to its pages."""

from __future__ import annotations

import json
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.comparison.class_groups import class_groups, images_with_class, shown_classes
from benchmarks.comparison.costs import measure_costs
from benchmarks.comparison.datasets import usable_dataset
from benchmarks.comparison.figures import accuracy_against, class_bars, contender_styles, curves, intervals, save_png
from benchmarks.comparison.page import PageTable, write_page
from benchmarks.comparison.plan import describe_plan, plan
from benchmarks.comparison.pool import run_trials
from benchmarks.comparison.records import Costs, Record, save_json
from benchmarks.comparison.summary import Row, summarize
from benchmarks.comparison.trials import Trial
from benchmarks.markdown import versions
from trainers.foundation.errors import UserError
from trainers.options.config import Config

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Study:
    """Trains what is missing, and writes JSON, Markdown, HTML and figures into one folder.

    Args:
        name: of the files.
        title: of the page.
        config: that all trials derive from.
        options: of the command line, see `benchmarks.comparison.options`.
    """

    def __init__(self, name: str, title: str, config: Config, options: Namespace) -> None:
        self.name = name
        self.title = title
        self.config = config
        self.options = options
        self.folder: Path = options.output
        self.failures: list[str] = []

    @cached_property
    def class_images(self) -> dict[str, int]:
        """Number of training images that show each class, by its name."""
        dataset = usable_dataset(self.config.data, self.config.data.train_split, self.folder)
        return dict(zip(dataset.class_names, images_with_class(dataset).tolist(), strict=True))

    @cached_property
    def val_classes(self) -> list[str]:
        """The classes that the validation images show."""
        return shown_classes(usable_dataset(self.config.data, self.config.data.val_split, self.folder))

    @cached_property
    def class_groups(self) -> dict[str, list[str]]:
        """Head, middle and tail of the classes."""
        return class_groups(self.class_images)

    def print_plan(self, trials: Sequence[Trial]) -> None:
        """Prints what is missing and how long it would take."""
        planned = plan(trials, self.folder)
        print(describe_plan(planned, trials=len({trial.key for trial in trials}), jobs=self.options.jobs))

    def run(self, trials: Sequence[Trial], *, keep: Sequence[Trial] = ()) -> list[Record]:
        """The records of the trials, in their order, but of those that failed; with ``--report`` of what is there.

        Args:
            trials: what to train.
            keep: trials whose last checkpoints are kept.

        Raises:
            UserError: All trainings failed, or there is nothing to report.
        """
        if not self.options.report:
            self.failures = run_trials(trials, self.folder, jobs=self.options.jobs, keep=keep)
        records = [record for trial in trials if (record := trial.load_record(self.folder)) is not None]
        missing = len(trials) - len(records)
        if not records:
            self._raise_failures()
            raise UserError(f"{self.folder} holds no record of these trainings; leave out --report to make them.")
        if missing:
            print(f"{missing} of {len(trials)} trainings are missing and left out.", file=sys.stderr)
        return records

    def _raise_failures(self) -> None:
        """Ends a command of which some trainings failed, once it has written what the others gave.

        Raises:
            UserError: Some failed; the sentence names them.
        """
        if self.failures:
            raise UserError(
                f"{len(self.failures)} training{'s' * (len(self.failures) > 1)} failed; mend what they say, and the "
                f"same command goes on with them: {' | '.join(self.failures)}"
            )

    def costs(self, trials: Sequence[Trial]) -> dict[tuple[str, str], Costs]:
        """What each contender that was trained costs on each encoder; measured once, those of an encoder in turn.

        With ``--report`` nothing is measured, as other trainings may be running.

        Raises:
            UserError: See `measure_costs`.
        """
        trained = [trial for trial in trials if trial.record_file(self.folder).exists()]
        firsts = {(trial.contender, trial.encoder): trial for trial in reversed(trained)}
        costs: dict[tuple[str, str], Costs] = {}
        for encoder in dict.fromkeys(encoder for _, encoder in firsts):
            files = {
                name: self.folder / "costs" / trial.record_file(self.folder).name
                for (name, its), trial in firsts.items()
                if its == encoder
            }
            if not all(file.exists() for file in files.values()):
                if self.options.report:
                    continue
                configs = {name: firsts[name, encoder].config for name in files}
                for name, measured in measure_costs(configs, self.folder, rounds=self.options.rounds).items():
                    save_json(measured, files[name])
            costs |= {(name, encoder): Costs(**json.loads(file.read_text())) for name, file in files.items()}
        return costs

    def rows(self, records: Sequence[Record], costs: Mapping[tuple[str, str], Costs] | None = None) -> list[Row]:
        """The records over their seeds."""
        shown = set(self.val_classes)
        groups = {group: [name for name in names if name in shown] for group, names in self.class_groups.items()}
        return summarize(records, classes=self.val_classes, groups=groups, costs=costs or {})

    def write(self, groups: Mapping[str, Sequence[Row]], tables: Sequence[PageTable]) -> None:
        """Writes all files, and prints the Markdown.

        Args:
            groups: what is drawn together, by title.
            tables: of the page.

        Raises:
            UserError: Some trainings failed, which the pages then lack.
        """
        introduction = self._introduction([row for rows in groups.values() for row in rows])
        figures = self._figures(groups)
        write_page(
            self.folder / f"{self.name}.html",
            title=self.title,
            introduction=introduction,
            tables=tables,
            figures=[(caption, figure) for _, caption, figure in figures],
        )
        for name, _, figure in figures:
            save_png(figure, self.folder / f"{self.name}_{name}.png")
        where = f"Figures: `{self.name}.html` and `{self.name}_*.png`, which the command above writes with `--report`."
        paragraphs = [paragraph.replace(self._command(), f"`{self._command()}`") for paragraph in introduction]
        page = "\n\n".join([f"# {self.title}", *paragraphs, *(each.to_markdown() for each in tables), where])
        (self.folder / f"{self.name}.md").write_text(page + "\n", encoding="utf-8")
        numbers = {title: [asdict(row) for row in rows] for title, rows in groups.items()}
        report = {"command": self._command(), "versions": versions(), "rows": numbers}
        (self.folder / f"{self.name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(page)
        self._raise_failures()

    def _introduction(self, rows: Sequence[Row]) -> list[str]:
        data, train = self.config.data, self.config.train
        height, width = data.crop_size
        machines = dict.fromkeys(machine for row in rows for machine in row.machines)
        shown = set(self.val_classes)
        groups = ", ".join(
            f"{group}: {len(names)} ({len(shown.intersection(names))} of them in validation images)"
            for group, names in self.class_groups.items()
        )
        return [
            f"Made by {self._command()} with {versions()}; trained on {'; '.join(machines)}.",
            f"Each training: {train.iterations} steps of {train.batch_size} crops of {height}x{width}, by the same "
            "trainer, with the same data, order, augmentation, optimiser and learning rates. Scores are those after "
            f"the last step, in % as mean ± standard deviation over the seeds. {groups} classes, thirds by the number "
            "of training images that show them.",
        ]

    def _figures(self, groups: Mapping[str, Sequence[Row]]) -> list[tuple[str, str, Figure]]:
        """Name, caption and figure of all that there is to draw."""
        styles = contender_styles([row for rows in groups.values() for row in rows])
        drawn: list[tuple[str, str, Figure | None]] = []
        for title, rows in groups.items():
            name = title.replace(" ", "_")
            drawn += [
                (
                    f"{name}_latency",
                    f"{title}: mean IoU against latency",
                    accuracy_against(rows, "latency", styles=styles),
                ),
                (
                    f"{name}_parameters",
                    f"{title}: mean IoU against parameters",
                    accuracy_against(rows, "parameters", styles=styles),
                ),
                (f"{name}_seeds", f"{title}: mean IoU of each seed", intervals(rows, styles=styles)),
                (f"{name}_curves", f"{title}: mean IoU of the validations", curves(rows, styles=styles)),
            ]
            first = [row for row in rows if row.encoder == rows[0].encoder]
            drawn.append(
                (
                    f"{name}_classes",
                    f"{title}: IoU of each class on {rows[0].encoder}",
                    class_bars(first, styles=styles),
                )
            )
        return [(name, caption, figure) for name, caption, figure in drawn if figure is not None]

    def _command(self) -> str:
        return shlex.join(["python", "-m", f"benchmarks.{self.name}", *self.options.given])
