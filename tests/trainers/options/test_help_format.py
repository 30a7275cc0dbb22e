from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from jsonargparse import ArgumentParser

from trainers.options.help_format import CommandLineHelp
from trainers.options.parsing import parse_config


@pytest.mark.parametrize(
    ("kind", "default", "shown"),
    [
        (int, 3, "--option int Text. (default: 3)"),
        (bool, True, "--option {true,false} Text. (default: true)"),
        (tuple[int, int], (128, 96), "--option [int,int] Text. (default: [128,96])"),
        (tuple[float, ...], (1.0,), "--option [float,...] Text. (default: [1.0])"),
        (tuple[float, float] | None, None, "--option [float,float]|null Text. (default: null)"),
        (Literal["a", "b"], "a", "--option {a,b} Text. (default: a)"),
        (Literal["a", "b"] | None, None, "--option {a,b}|null Text. (default: null)"),
        (tuple[str, ...] | str | None, None, "--option [str,...]|str|null Text. (default: null)"),
        (
            Literal["a" * 40, "b" * 40],
            "b" * 40,
            f"--option NAME Text. One of {'a' * 40}, {'b' * 40}. (default: {'b' * 40})",
        ),
        (str | None, "x y", "--option str|null Text. (default: x y)"),
        (Path | None, None, "--option Path|null Text. (default: null)"),
    ],
)
def test_types_and_defaults_are_spelled_as_they_are_written(kind: object, default: object, shown: str) -> None:
    parser = ArgumentParser(formatter_class=CommandLineHelp)
    parser.add_argument("--option", type=kind, default=default, help="Text.")
    assert shown in " ".join(parser.format_help().split())
    (written,) = [part for part in [shown.partition("default: ")[2].removesuffix(")")] if part]
    assert parser.parse_args(["--option", written]).option == default


def test_what_is_required_is_said() -> None:
    parser = ArgumentParser(formatter_class=CommandLineHelp)
    parser.add_argument("--file", type=Path, required=True, help="A file.")
    assert "--file Path A file. (required)" in " ".join(parser.format_help().split())


def test_the_training_help_fits_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        parse_config(["--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m trainers.train [--config FILE] [--SECTION.OPTION VALUE ...]\n")
    assert max(map(len, text.splitlines())) <= 100
    assert "One of kinds, shapes, folder, " in " ".join(text.split()) and "Union[" not in text
    assert "tuple[" not in text and "Literal[" not in text and "(default: (" not in text
