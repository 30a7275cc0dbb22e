from __future__ import annotations

from typing import Any

import ignite.distributed as idist
import pytest

from trainers.foundation import processes
from trainers.foundation.processes import from_first_process


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of two processes, what the first has told; the one that runs is the one of ``idist.get_rank``."""
    told: list[str] = []

    def broadcast(message: str) -> str:
        if idist.get_rank() == 0:
            told.append(message)
        return told[-1]

    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    monkeypatch.setattr(processes, "_told", broadcast)
    return told


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, work: Any) -> Any:
    monkeypatch.setattr(idist, "get_rank", lambda: rank)
    return from_first_process(work)


def test_all_processes_have_what_the_first_one_found(wire: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"mean": [0.1, 1 / 3], "names": ["ä", "b"]}
    assert as_rank(monkeypatch, 0, lambda: found) == found
    assert as_rank(monkeypatch, 1, lambda: pytest.fail("the first process alone works")) == found


@pytest.mark.parametrize("error", [OSError("x.png cannot be read"), ValueError("band 3 says nothing")])
def test_all_processes_hear_of_an_error(wire: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail() -> None:
        raise error

    for rank in (0, 1):
        with pytest.raises(OSError, match=str(error)):
            as_rank(monkeypatch, rank, fail)


def test_a_process_on_its_own_talks_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_told", None)
    assert from_first_process(lambda: [1, 2]) == [1, 2]
