"""How many cases a run has: about 300 each time, and more than 5,000 with ``pytest -m exhaustive``.

Every property has the same share. The cases of a usual run are the same each time; those of an exhaustive one are new,
and one that fails prints the ``@reproduce_failure`` line that brings it back.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.fuzz.outcomes import TALLY

HANG_SECONDS = 1800

_SHARED = {
    "database": None,
    "deadline": timedelta(seconds=60),  # far above any case on a busy machine: whoever needs it hangs
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
}
settings.register_profile("usual", max_examples=12, derandomize=True, **_SHARED)
settings.register_profile("exhaustive", max_examples=220, print_blob=True, **_SHARED)


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("exhaustive" if config.option.markexpr == "exhaustive" else "usual")


def pytest_itemcollected(item: pytest.Item) -> None:
    if settings.get_current_profile_name() == "exhaustive":
        item.add_marker("exhaustive")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLY.cases:
        terminalreporter.line(f"fuzzing: {TALLY.cases} cases, {TALLY.results} results, {TALLY.refusals} refusals")


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all cases share."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(autouse=True)
def _end_a_hang() -> Iterator[None]:
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
