"""What a benchmark writes: a page, its numbers, and a figure."""

from __future__ import annotations

import json
import os
import platform
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.markdown import table, versions

RESULTS = Path(__file__).with_name("results")
QUICK_RESULTS = Path("runs/quick")


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        columns: of its table.
        rows: of its table, as they are printed.
        note: a paragraph after the table.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def to_markdown(self) -> str:
        """Heading, table and note."""
        return "\n\n".join(part for part in (f"## {self.title}", table(self.columns, self.rows), self.note) if part)


def benchmark_parser(name: str, description: str) -> ArgumentParser:
    """The options that all benchmarks have."""
    parser = ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="Small sizes and one round: whether it runs, no numbers.")
    parser.add_argument("--rounds", type=int, default=7, help="Rounds that are timed; 0 only counts.")
    parser.add_argument(
        "--output", type=Path, help=f"The folder to write to; {RESULTS}, but with --quick {QUICK_RESULTS}."
    )
    return parser


def report_folder(options: Namespace) -> Path:
    """Where a benchmark writes: what ``--quick`` gives is never taken for results."""
    return options.output or (QUICK_RESULTS if options.quick else RESULTS)


def machine() -> dict[str, str]:
    """Processor and thread count, and the GPU where there is one."""
    described = {"processor": _processor(), "threads": str(torch.get_num_threads()), "cores": str(os.cpu_count())}
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


def describe_machine() -> str:
    """What `machine` says, as words."""
    return ", ".join(f"{key} {value}" for key, value in machine().items())


def write_report(
    name: str,
    *,
    title: str,
    command: str,
    sections: Sequence[Section],
    numbers: Mapping[str, Any],
    draw: Callable[[Any], None],
    folder: Path,
) -> None:
    """Writes NAME.md, NAME.json and NAME.png, and prints the page.

    Args:
        name: of the files.
        title: of the page.
        command: that made them.
        sections: of the page.
        numbers: all that was measured, as JSON takes it.
        draw: draws onto a figure of matplotlib.
        folder: to write to; made if it is not there.
    """
    from matplotlib.figure import Figure  # of the "bench" extra

    folder.mkdir(parents=True, exist_ok=True)
    head = f"# {title}\n\nMade by `{command}` with {versions()}; {describe_machine()}."
    page = "\n\n".join([head, *(section.to_markdown() for section in sections), f"![{title}]({name}.png)"]) + "\n"
    (folder / f"{name}.md").write_text(page, encoding="utf-8")
    report = {"command": command, "versions": versions(), "machine": machine(), "numbers": numbers}
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    figure = Figure(layout="constrained")
    draw(figure)
    figure.savefig(folder / f"{name}.png", dpi=110)
    print(page)


def error_sentence(error: BaseException) -> str:
    """The kind of an error, and the beginning of what it says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _processor() -> str:
    """The processor's name, which Python itself knows on few systems."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        names = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0].partition(":")[2].strip()
    return platform.processor() or platform.machine()
