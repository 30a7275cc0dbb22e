"""Options of a training that a command on its checkpoint may change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from trainers.options.config import Config

_HELP = {
    "data.max_pixels": "Most pixels that an image may have",
    "data.show": "Bands that are drawn",
    "eval.mode": "Image as a whole, or windows",
    "eval.window": "Height and width of a window",
    "eval.stride": "Pixels between windows",
    "eval.scales": "Factors of the image's size",
    "eval.flip": "Mirrored images too",
    "model.classification": "What names the masks",
    "model.score_join": "Add what has a weight in the scores, or multiply it",
    "model.query_scores": "Weight of the queries' masks",
    "model.text_masks": "Weight of the text's own masks",
    "model.pixel_scores": "Weight of the pixels' likeness to text",
    "model.trained_text": "Share of the text in naming trained classes, with per_name",
    "model.untrained_text": "Power of the text in naming untrained classes, with per_name",
    "model.trained_clip": "Share of CLIP's image tower in naming trained classes",
    "model.untrained_clip": "The same in naming untrained ones",
    "model.calibration": "Taken off the logits of trained classes where there are untrained ones",
}
EVAL_OPTIONS = tuple(name for name in _HELP if name.startswith("eval."))
"""How a model is run on an image."""
SCORING_OPTIONS = tuple(name for name in _HELP if name.startswith("model."))
"""What an "mtaclip" makes its scores of."""


def add_overrides(parser: ArgumentParser, names: Sequence[str], *, aliases: Mapping[str, str] | None = None) -> None:
    """Adds options of `Config`, such as "eval.mode", each null unless it is to differ from the training's.

    Args:
        parser: What to add them to.
        names: The options' names.
        aliases: What some of them can be called, too.
    """
    for name in names:
        section, option = name.split(".")
        kind: Any = get_type_hints(type(getattr(Config, section)))[option]
        spellings = [f"--{name}", *([aliases[name]] if aliases and name in aliases else [])]
        parser.add_argument(*spellings, type=kind | None, help=f"{_HELP[name]}; null: as trained.")


def given_options(options: Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Those of the options that are given, by their names without the section."""
    return {name.partition(".")[2]: options[name] for name in names if options[name] is not None}


def overridden(config: Config, options: Namespace, names: Sequence[str]) -> Config:
    """The configuration with those of the options that are given.

    Raises:
        UserError: A value is out of its range.
    """
    for section in {name.partition(".")[0] for name in names}:
        given = given_options(options, [name for name in names if name.startswith(f"{section}.")])
        config = replace(config, **{section: replace(getattr(config, section), **given)})
    return config
