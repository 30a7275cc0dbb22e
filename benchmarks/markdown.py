"""Tables, and what they were measured with, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version

_PACKAGES = ("torch", "timm", "segmentation_models_pytorch", "open_clip_torch")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of these rows of cells."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows))


def versions() -> str:
    """The packages that a measurement depends on, each with its version."""
    return ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
