"""Checks of options, made where the user passes them."""

from __future__ import annotations

from typing import Any, get_args


def check_choice(name: str, value: object, choices: Any) -> None:
    """Checks an option against its ``Literal``.

    Raises:
        ValueError: naming the option, its choices and what was given.
    """
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(choices)))}, got {value!r}")


def check_range(name: str, value: int, low: int, high: int | None = None) -> None:
    """Checks an integer option against its inclusive bounds.

    Raises:
        ValueError: naming the option, its bounds and what was given.
    """
    if value < low or (high is not None and value > high):
        bounds = f"{low} or more" if high is None else f"between {low} and {high}"
        raise ValueError(f"{name} must be {bounds}, got {value}")
