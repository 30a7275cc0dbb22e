"""What fuzzing asks of every case: a result, or an exception that the documentation names."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb

REPOSITORY = Path(__file__).parents[2]
PACKAGES = (REPOSITORY / "mtaclip_plugin", REPOSITORY / "trainers")


@dataclass
class Tally:
    """How the cases of a run ended."""

    results: int = 0
    refusals: int = 0

    @property
    def cases(self) -> int:
        return self.results + self.refusals


TALLY = Tally()


@contextmanager
def outcome(*refusals: type[Exception], valid: bool | None) -> Iterator[None]:
    """Runs a case, and fails if it ends in another way than documented.

    Args:
        *refusals: the exceptions that the documentation names.
        valid: whether it promises a result; ``None`` where both ways are right, as for a mutated file.
    """
    refusal: Exception | None = None
    try:
        yield
    except refusals as error:
        refusal = error
    if refusal is None:
        assert valid is not False, "an invalid case was not refused"
        TALLY.results += 1
    else:
        assert valid is not True, f"a valid case was refused: {refusal!r}"
        _check_sentence(refusal)
        TALLY.refusals += 1


def _check_sentence(error: Exception) -> None:
    """It says something, and it is the project that says it: no library's error from deep inside came through."""
    if isinstance(error, ArgumentError):
        assert str(error)
        return  # documented as the library's own
    assert len(str(error).split()) > 3, f"not a sentence: {error!r}"
    raised = [Path(frame.f_code.co_filename) for frame, _ in walk_tb(error.__traceback__)][-1]
    assert any(raised.is_relative_to(package) for package in PACKAGES), f"raised by {raised}: {error!r}"
