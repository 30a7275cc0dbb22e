"""What the commands say when the user, the data or the network is at fault: one sentence, no traceback."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

USAGE_EXIT_CODE = 2


class UserError(ValueError):
    """Something that the user can put right; the message is one sentence that names it and the remedy."""


def require(condition: bool, sentence: str) -> None:
    """Refuses an option's value with a sentence.

    Raises:
        UserError: The condition does not hold.
    """
    if not condition:
        raise UserError(sentence)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns what goes wrong with the user's options, files or network inside the block into a `UserError`.

    Only blocks that read what the user gave (options, data, checkpoints) belong here: a ``ValueError`` that
    leaves any other code is a mistake of the program, and keeps its traceback.

    Raises:
        UserError: In place of a ``ValueError``, ``OSError`` or ``ModuleNotFoundError``.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, OSError, ModuleNotFoundError) as error:
        raise UserError(_sentence(error)) from error


def reading(loader: Iterable[T]) -> Iterator[T]:
    """Yields the batches of ``loader``; a file that it cannot read, or a wrong label, is a `UserError`."""
    with user_errors():
        yield from loader


def main_guard(main: Callable[P, None]) -> Callable[P, None]:
    """Makes a command's ``main`` end a `UserError` with its sentence on stderr and exit code 2.

    Every other exception is a mistake of the program, and keeps its traceback.
    """

    @wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            main(*args, **kwargs)
        except (UserError, ArgumentError) as error:
            print(f"error: {_sentence(error)}", file=sys.stderr)
            sys.exit(USAGE_EXIT_CODE)

    return guarded


def _sentence(error: Exception) -> str:
    """The message on one line; of an error in a loader's worker, what followed the worker's traceback."""
    message = str(error)
    if "Original Traceback" in message:
        message = message.rstrip().rpartition("\n")[2].partition(": ")[2]
    return " ".join(message.split())
