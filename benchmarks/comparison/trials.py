"""One training of a comparison, by the project's own trainer."""

from __future__ import annotations

import shutil
import traceback
from argparse import ArgumentError
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

from filelock import FileLock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

import benchmarks.denseclip  # noqa: F401  registers this peer, in whichever process trains it
from benchmarks.comparison.records import Record, Scores, load_record, save_json
from benchmarks.report import describe_machine
from mtaclip_plugin.inference import Classification
from trainers.data.check import CHECKED_FILE
from trainers.evaluate import evaluate
from trainers.foundation.errors import UserError
from trainers.models import is_mtaclip, text_options
from trainers.options.config import Config
from trainers.options.model_config import LossConfig, ModelConfig
from trainers.options.parsing import config_from_yaml, config_to_yaml
from trainers.report.logbook import LOG, SCORES
from trainers.run.checkpoints import BEST, LAST, PREVIOUS, Checkpoint, load_checkpoint
from trainers.scores.metrics import SegmentationScores
from trainers.train import train

RUNS, RECORDS = "runs", "records"
LOG_FILE = "log.txt"
CLASSIFICATIONS: tuple[Classification, ...] = ("learned", "text", "ensemble")


class StoppedError(UserError):
    """A training was asked to stop before its end."""


@dataclass(frozen=True)
class Trial:
    """What is trained, and with which seed.

    Attributes:
        contender: its name.
        config: of the training; its seed is the trial's.
        every_classification: whether all ways of naming masks are scored, not only the configured one; the key is
            the same.
    """

    contender: str
    config: Config
    every_classification: bool = False

    @property
    def encoder(self) -> str:
        """Name of the encoder and of the weights that it starts with."""
        return f"{self.config.model.encoder_name} ({self.config.model.encoder_weights or 'untrained'})"

    @property
    def key(self) -> str:
        """Names the training by all that its result depends on: equal trainings of two comparisons are one."""
        read = self.read_config
        train = replace(read.train, output="", resume="auto", overlays=0, checkpoint_every=None)
        data = replace(read.data, root=None, num_workers=0, max_pixels=None, show=None)
        text = config_to_yaml(replace(read, data=data, train=train))
        return sha256(text.encode()).hexdigest()[:16]

    @property
    def read_config(self) -> Config:
        """The configuration with the defaults of what its architecture does not read."""
        config = replace(self.config, model=_read_options(self.config.model))
        return config if is_mtaclip(config.model.arch) else replace(config, loss=LossConfig())

    def record_file(self, folder: Path) -> Path:
        """Where its record is, once it is trained.

        Options that came later change the names of trainings, not what was trained: a record of before is known by
        its options, which have their defaults for these.
        """
        file = folder / RECORDS / f"{self.key}.json"
        others = () if file.exists() else (folder / RECORDS).glob("*.json")
        return next((other for other in others if _recorded_key(other) == self.key), file)

    def load_record(self, folder: Path) -> Record | None:
        """Its record under the trial's own names, or ``None`` where there is none."""
        path = self.record_file(folder)
        if not path.exists():
            return None
        record = load_record(path)
        if self.every_classification and _has_text(self.config.model) and not record.evaluations:
            return None
        return replace(record, contender=self.contender, encoder=self.encoder)


@cache
def _recorded_key(file: Path) -> str | None:
    """The key that the training of a record has now; ``None`` where it has options that there are no more."""
    record = load_record(file)
    try:
        return Trial(record.contender, config_from_yaml(record.config)).key
    except (UserError, ArgumentError):
        return None


def _read_options(model: ModelConfig) -> ModelConfig:
    """The options of a model that its architecture reads; the others are as by default."""
    read = {"arch", "encoder_name", "encoder_weights", *text_options(model.arch)}
    return ModelConfig(**{name: value for name, value in vars(model).items() if name in read})


def _has_text(model: ModelConfig) -> bool:
    return is_mtaclip(model.arch) and model.text_encoder is not None


def train_trial(trial: Trial, folder: Path, *, keep: bool) -> Record:
    """Trains, or goes on where a training was cut off, and writes the record; another process's is waited for.

    What the trainer prints goes to ``log.txt`` in the run's folder. Nothing of the result is chosen by its scores: it
    is that of the last step.

    Args:
        trial: what to train.
        folder: of the comparison.
        keep: whether the last checkpoint is kept, and the best that the trainer goes on with.

    Raises:
        StoppedError: It was asked to stop, by Ctrl-C or SIGTERM; its last step is saved.
        UserError: What the training says.
    """
    run = folder / RUNS / trial.key
    run.mkdir(parents=True, exist_ok=True)
    with FileLock(run / "lock"):
        return trial.load_record(folder) or _train(trial, folder, run, keep=keep)


def _train(trial: Trial, folder: Path, run: Path, *, keep: bool) -> Record:
    if (folder / CHECKED_FILE).exists():
        shutil.copy(folder / CHECKED_FILE, run)  # the data were read before the first trial, once for all
    config = replace(trial.read_config, train=replace(trial.config.train, output=str(run)))
    with (run / LOG_FILE).open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            train(config)
            checkpoint = load_checkpoint(run / LAST)
            if checkpoint.validation.iteration < config.train.iterations:
                raise StoppedError(f"{trial.contender} was stopped; the same command goes on with it.")
            sets = checkpoint.validation.sets
            evaluations = {name: _named(one.scores, one.class_names) for name, one in sets.items()}
            evaluations |= _evaluations(checkpoint) if trial.every_classification else {}
        except Exception:
            traceback.print_exc()  # of which the comparison shows the last line
            raise
    assert checkpoint.validation.scores is not None
    record = Record(
        contender=trial.contender,
        encoder=trial.encoder,
        seed=config.train.seed,
        scores=_named(checkpoint.validation.scores, checkpoint.class_names),
        evaluations=evaluations,
        curve=_curve(run / LOG),
        config=config_to_yaml(replace(trial.config, train=replace(trial.config.train, output=""))),
        machine=describe_machine(),
    )
    _log_hyperparameters(record, run / LOG)
    save_json(record, trial.record_file(folder))
    for name in (PREVIOUS,) if keep else (PREVIOUS, BEST, LAST):
        (run / name).unlink(missing_ok=True)
    return record


def _evaluations(checkpoint: Checkpoint) -> dict[str, Scores]:
    """Scores with each way of naming masks, of a model that has text."""
    model, scores = checkpoint.config.model, checkpoint.validation.scores
    assert scores is not None
    if not _has_text(model):
        return {}
    evaluations: dict[Classification, SegmentationScores] = {model.classification: scores}
    for way in CLASSIFICATIONS:
        if way not in evaluations:
            device = checkpoint.config.train.device
            evaluations[way] = evaluate(checkpoint, root=None, split=None, device=device, classification=way)
    return {way: _named(evaluations[way], checkpoint.class_names) for way in CLASSIFICATIONS}


def _named(scores: SegmentationScores, class_names: Sequence[str]) -> Scores:
    content = scores.to_dict(class_names)
    return Scores(content["mean_iou"], content["boundary_iou"], content["class_iou"])


def _curve(log: Path) -> tuple[tuple[int, float], ...]:
    """The validations, as TensorBoard's log has them."""
    events = EventAccumulator(str(log)).Reload()
    return tuple((event.step, event.value) for event in events.Scalars(f"{SCORES}/IoU, mean"))


def _log_hyperparameters(record: Record, log: Path) -> None:
    """Adds a line to TensorBoard's table of hyperparameters."""
    named = {"contender": record.contender, "encoder": record.encoder, "seed": record.seed}
    scores = {"mean IoU": record.scores.mean_iou, "boundary IoU": record.scores.boundary_iou}
    with SummaryWriter(log) as writer:
        writer.add_hparams(named, {name: value for name, value in scores.items() if value is not None}, run_name=".")
