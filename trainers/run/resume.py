"""Whether a run may go on from a checkpoint, under which options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from trainers.foundation.errors import UserError
from trainers.options.config import Config
from trainers.options.model_config import ModelConfig
from trainers.run.checkpoints import Checkpoint


def check_resumable(checkpoint: Checkpoint, folder: Path, config: Config, class_names: Sequence[str]) -> None:
    """Makes sure that a run may go on from a checkpoint.

    Raises:
        UserError: The checkpoint is one of another model or of other classes; or other options have changed, which
            ``--train.resume always`` allows.
    """
    theirs, ours = _options(checkpoint.config), _options(config)
    left_open = [f"data.{name}" for name in _FOUND_OUT if ours[f"data.{name}"] is None]
    changed = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name) and name not in left_open]
    of_model = [name for name in changed if name.startswith("model.") or name in _FIXED_OPTIONS]
    if checkpoint.class_names != tuple(class_names):
        of_model.append("class names")
    if of_model:
        raise UserError(
            f"The run in {folder} is one of another model: it has "
            f"{_describe(checkpoint.config.model, checkpoint.class_names)}, this command "
            f"{_describe(config.model, class_names)}; they differ in {', '.join(of_model)}; choose another "
            "--train.output."
        )
    if changed and config.train.resume != "always":
        differences = ", ".join(f"{name} was {theirs.get(name)} and is {ours.get(name)}" for name in changed)
        raise UserError(
            f"The run in {folder} was begun with other options: {differences}; choose another --train.output, or go "
            "on with these by --train.resume always."
        )


def with_found_out(config: Config, checkpoint: Checkpoint) -> Config:
    """The configuration of a run that goes on, with what was found out when it began, where that is left open."""
    found = {name: getattr(config.data, name) or getattr(checkpoint.config.data, name) for name in _FOUND_OUT}
    return replace(config, data=replace(config.data, **found))


_FOUND_OUT = ("mean", "std")
"""Options of the data that are looked up, or measured, where they are left open."""


_FREE_OPTIONS = frozenset(
    (
        "data.max_pixels",
        "data.num_workers",
        "data.show",
        "train.accumulate",
        "train.checkpoint_every",
        "train.compile",
        "train.device",
        "train.overlays",
        "train.output",
        "train.resume",
    )
)
"""Options that may change on the way, beside each ``root``: they say where a run goes on and at what cost, but for
rounding not where to."""


_FIXED_OPTIONS = ("data.channels", "data.unseen", "optim.freeze_encoder", "optim.layer_decay")
"""Options beside the model's that may not change: the optimizer's groups, or the model itself, depend on them."""


def _options(config: Config) -> dict[str, Any]:
    """What a run depends on, by the options' names; those of several data sets by the sets' names, too."""
    sections = asdict(config)
    sets = sections["data"].pop("sets") or ()
    sections |= {f"data.sets.{one['name']}": one for one in sets}
    return {
        f"{section}.{name}": value
        for section, options in sections.items()
        for name, value in options.items()
        if f"{section}.{name}" not in _FREE_OPTIONS and name != "root"
    }


def _describe(model: ModelConfig, class_names: Sequence[str]) -> str:
    return f"{model.arch} on {model.encoder_name} with {len(class_names)} classes"
