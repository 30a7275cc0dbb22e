from __future__ import annotations

import sys

import pytest
from ignite.engine import Engine
from tqdm import tqdm

from trainers.foundation.progress import engine_progress, progress

SLOW = {"mininterval": 0, "miniters": 1}
"""Options of work that takes so long that a bar looks at each step of it."""


@pytest.mark.parametrize(("total", "lines"), [(100, 10), (1000, 10), (10, 10), (4, 4), (1, 1), (0, 0)])
def test_a_file_gets_a_line_every_tenth(capsys: pytest.CaptureFixture[str], total: int, lines: int) -> None:
    assert list(progress(range(total), title="read", **SLOW)) == list(range(total))
    written = capsys.readouterr().err
    assert "\r" not in written and len(written.splitlines()) == lines
    assert total == 0 or (written.splitlines()[-1].startswith("read: 100%") and f"{total}/{total}" in written)


def test_what_is_quick_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    list(progress(range(1000), title="read"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("read: 100%")


def test_an_engine_s_lines_tell_its_loss(capsys: pytest.CaptureFixture[str]) -> None:
    engine = Engine(lambda engine, batch: float(batch))
    engine_progress("train", lasting=True).attach(engine, output_transform=lambda loss: {"loss": loss})
    engine.run(range(50), max_epochs=1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("train: ") and "5/50" in lines[0] and "loss=4" in lines[0]


def test_what_is_short_writes_nothing_into_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    engine = Engine(lambda engine, batch: None)
    engine_progress("validate", as_lines=False).attach(engine)
    engine.run(range(50), max_epochs=1)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_is_redrawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    list(progress(range(3), title="read"))
    written = capsys.readouterr().err
    assert "\r" in written and written.count("\n") == 1


def test_lines_stay_whole_where_others_are_written_between_them(capsys: pytest.CaptureFixture[str]) -> None:
    for number in progress(range(2), title="read", **SLOW):
        tqdm.write(f"number {number}", file=sys.stderr)
    said = [line.split(":")[0] for line in capsys.readouterr().err.split("\n")]
    assert said == ["number 0", "read", "number 1", "read", ""]
