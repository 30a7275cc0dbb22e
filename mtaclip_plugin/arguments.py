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


def check_positive(**options: int) -> None:
    """Checks that counts are 1 or more.

    Raises:
        ValueError: naming the first option that is not, and what was given.
    """
    for name, value in options.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
