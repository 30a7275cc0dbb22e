"""Class names of well-known data sets, as data: a file for each, a name a line, in the order of the label ids."""

from __future__ import annotations

import difflib
from functools import cache
from importlib.resources import files


def vocabulary(name: str) -> tuple[str, ...]:
    """The class names of a data set, in the order of its label ids.

    Args:
        name: ``"ade20k"`` (150 classes), ``"camvid"`` (11), ``"cityscapes"`` (19), ``"coco_stuff"`` (171),
            ``"pascal_context"`` (59) or ``"voc"`` (21, "background" first).

    Raises:
        ValueError: if there is no such vocabulary.

    Example:
        >>> vocabulary("cityscapes")[:3]
        ('road', 'sidewalk', 'building')
    """
    vocabularies = _vocabularies()
    if name not in vocabularies:
        close = difflib.get_close_matches(name.lower(), vocabularies, n=1, cutoff=0.4)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise ValueError(f"no vocabulary '{name}'; {hint}There are {', '.join(vocabularies)}")
    return vocabularies[name]


@cache
def _vocabularies() -> dict[str, tuple[str, ...]]:
    texts = [file for file in files(__name__).iterdir() if file.name.endswith(".txt")]
    return {
        file.name.removesuffix(".txt"): tuple(file.read_text(encoding="utf-8").splitlines())
        for file in sorted(texts, key=lambda file: file.name)
    }
