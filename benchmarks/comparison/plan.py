"""What a comparison would run, and for how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.comparison.costs import measure_costs
from benchmarks.comparison.datasets import usable_dataset
from benchmarks.comparison.records import Costs
from benchmarks.comparison.trials import Trial
from benchmarks.markdown import table


@dataclass(frozen=True)
class PlannedTraining:
    """A training that is missing.

    Attributes:
        trial: what would be trained.
        seconds: of its steps and validations, as a dry run was timed; its start is not in it.
    """

    trial: Trial
    seconds: float


def plan(trials: Sequence[Trial], folder: Path) -> list[PlannedTraining]:
    """The trainings that are missing, with the time that a dry run of each contender says they take.

    The dry run makes two steps and two predictions of each, of which the second ones count, alone on the machine.

    Raises:
        UserError: Something in the options or the data must be put right first.
    """
    missing = {trial.key: trial for trial in trials if trial.load_record(folder) is None}
    costs: dict[str, Costs] = {}
    for trial in missing.values():
        if (name := _pair(trial)) not in costs:
            costs |= measure_costs({name: trial.config}, folder, rounds=1)
    return [PlannedTraining(trial, _seconds(trial, costs, folder)) for trial in missing.values()]


def describe_plan(planned: Sequence[PlannedTraining], *, trials: int, jobs: int) -> str:
    """The plan as a table, a contender a line, and its sum."""
    seconds: dict[str, list[float]] = {}
    for training in planned:
        seconds.setdefault(_pair(training.trial), []).append(training.seconds)
    rows = [(name, str(len(each)), _minutes(sum(each))) for name, each in seconds.items()]
    total = sum(training.seconds for training in planned)
    sentence = (
        f"{len(planned)} of {trials} trainings are missing: {_minutes(total)} minutes of the whole machine"
        f"{f', shared by {jobs} at a time' if jobs > 1 else ''}."
    )
    return "\n\n".join([table(("contender", "trainings", "minutes"), rows), sentence] if rows else [sentence])


def _seconds(trial: Trial, costs: Mapping[str, Costs], folder: Path) -> float:
    cost, data, train = costs[_pair(trial)], trial.config.data, trial.config.train
    images = len(usable_dataset(data, data.val_split, folder))
    validations = -(-train.iterations // train.validate_every)
    return train.iterations * cost.step_seconds + validations * images * cost.latency


def _pair(trial: Trial) -> str:
    return f"{trial.contender} on {trial.encoder}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"
