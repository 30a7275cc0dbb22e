"""What the parts found: a page, its numbers and a figure, written anew after each part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bench import Outcome
from benchmarks.markdown import versions
from benchmarks.report import Section, machine

NAME = "gpu"


class Page:
    """The parts that are there so far, also those that an earlier call on the same machine measured.

    Args:
        folder: of the files.
        command: that is running.
        titles: of all parts by name, in the order of the page.
    """

    def __init__(self, folder: Path, command: str, titles: Mapping[str, str]) -> None:
        self.folder, self.command, self.titles = folder, command, titles
        self.machine = _machine()
        self.head: dict[str, Any] = {"versions": versions(), "machine": self.machine}
        self.parts: dict[str, Any] = {}
        earlier = folder / f"{NAME}.json"
        if earlier.is_file():
            content = json.loads(earlier.read_text(encoding="utf-8"))
            if {key: content.get(key) for key in self.head} == self.head:
                self.parts = content["parts"]

    def add(self, name: str, outcome: Outcome, *, seconds: float) -> None:
        """Adds a part, in place of an earlier one, and writes all files."""
        self.parts[name] = {"command": self.command, "seconds": round(seconds), **asdict(outcome)}
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {**self.head, "parts": self.parts}
        self._write("json", (json.dumps(content, indent=1) + "\n").encode())
        self._write("md", self.to_markdown().encode())
        self._draw()

    def to_markdown(self) -> str:
        """The page; parts that are missing are named."""
        described = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        lines = ["# On a GPU", f"With {self.head['versions']}; {described}."]
        for name, title in self.titles.items():
            lines.append(f"## {title}")
            if name not in self.parts:
                lines.append("Not measured.")
                continue
            part = self.parts[name]
            lines.append(f"Made by `{part['command']}` in {part['seconds']} s.")
            lines += [Section(**section).to_markdown().replace("## ", "### ", 1) for section in part["sections"]]
        if self._bars:
            lines.append(f"![On a GPU]({NAME}.png)")
        return "\n\n".join(lines) + "\n"

    @property
    def _bars(self) -> dict[str, dict[str, float]]:
        return {title: bars for part in self.parts.values() for title, bars in part["bars"].items() if bars}

    def _draw(self) -> None:
        if not self._bars:
            return
        from matplotlib.figure import Figure  # of the "bench" extra

        figure = Figure(figsize=(7 * len(self._bars), 3), layout="constrained")
        for axis, (title, bars) in zip(
            figure.subplots(1, len(self._bars), squeeze=False)[0], self._bars.items(), strict=True
        ):
            axis.barh(list(bars), list(bars.values()))
            axis.set(title=title)
            axis.invert_yaxis()
        figure.savefig(self.folder / f"{NAME}.png", dpi=110)

    def _write(self, ending: str, content: bytes) -> None:
        partial = self.folder / f"{NAME}.{ending}.partial"
        partial.write_bytes(content)
        partial.replace(self.folder / f"{NAME}.{ending}")


def _machine() -> dict[str, str]:
    described = machine()
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        described["memory"] = f"{properties.total_memory / 2**30:.0f} GiB"
        described["cuda"] = str(torch.version.cuda)
    return described
