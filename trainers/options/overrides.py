"""Options of a training that a command on its checkpoint may change."""

from __future__ import annotations

from collections.abc import Sequence
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
}
EVAL_OPTIONS = tuple(name for name in _HELP if name.startswith("eval."))
"""How a model is run on an image."""


def add_overrides(parser: ArgumentParser, names: Sequence[str]) -> None:
    """Adds options of `Config`, such as "eval.mode", each null unless it is to differ from the training's."""
    for name in names:
        section, option = name.split(".")
        kind: Any = get_type_hints(type(getattr(Config, section)))[option]
        parser.add_argument(f"--{name}", type=kind | None, help=f"{_HELP[name]}; null: as trained.")


def overridden(config: Config, options: Namespace, names: Sequence[str]) -> Config:
    """The configuration with those of the options that are given.

    Raises:
        UserError: A value is out of its range.
    """
    for section in {name.partition(".")[0] for name in names}:
        given = {
            option: value
            for option, value in vars(options[section]).items()
            if f"{section}.{option}" in names and value is not None
        }
        config = replace(config, **{section: replace(getattr(config, section), **given)})
    return config
