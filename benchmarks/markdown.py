"""Tables, and what they were measured with, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from importlib.util import find_spec

_PACKAGES = ("torch", "timm", "segmentation_models_pytorch", "open_clip_torch")
_PEERS = ("transformers", "onnxruntime")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of these rows of cells."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows))


def versions() -> str:
    """The packages that a measurement depends on, and the peers that are installed, each with its version."""
    peers = (package for package in _PEERS if find_spec(package) is not None)
    return ", ".join(f"{package} {version(package)}" for package in (*_PACKAGES, *peers))
