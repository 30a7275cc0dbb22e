"""The names that prompts are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

NONE_NAME = "none"
"""The name of class K+1, "no object"."""

_AS_SAVED = ContextVar("as_saved", default=False)


def fold_name(name: str) -> str:
    """What names that mean the same have in common: letters of one case, and single blanks between words.

    Example:
        >>> fold_name("  Traffic  Light ")
        'traffic light'
    """
    return " ".join(name.casefold().split())


@contextmanager
def names_as_saved() -> Iterator[None]:
    """Takes the names of a saved model as they are, also those that text can not tell apart."""
    token = _AS_SAVED.set(True)
    try:
        yield
    finally:
        _AS_SAVED.reset(token)


def are_as_saved() -> bool:
    """Whether names are those of a saved model."""
    return _AS_SAVED.get()


def check_class_names(names: Sequence[str] | None, num_classes: int) -> list[str]:
    """Class names, one for each class.

    Args:
        names: names in the order of the label ids; may be ``None`` for a single class, then "foreground".
        num_classes: K.

    Raises:
        ValueError: if the names are missing, empty, not one for each class, or the same as another or as "none" but
            for letters' case and white space.
    """
    if names is None:
        if num_classes == 1:
            return ["foreground"]
        raise ValueError(
            f"text needs the names of the {num_classes} classes: pass class_names=[...] in the order of the label "
            "ids, or text_encoder=None to do without text"
        )
    if isinstance(names, str):
        raise ValueError(f"class_names must be a list of names, got the single string '{names}'")
    if len(names) != num_classes:
        raise ValueError(
            f"{len(names)} class names for {num_classes} classes; pass one name for each label id, or "
            f"classes={len(names)}"
        )
    unusable = [name for name in names if not isinstance(name, str) or not name.strip()]
    if unusable:
        raise ValueError(f"class names must be words, got {unusable[0]!r}")
    key = str if are_as_saved() else fold_name
    known = {key(NONE_NAME): NONE_NAME}
    for name in names:
        other = known.get(key(name))
        if other == NONE_NAME:
            raise ValueError(f"a class can not be called '{name}': '{NONE_NAME}' is the text of no object; rename it")
        if other == name:
            raise ValueError(f"class name '{name}' appears twice; text can not tell its two classes apart")
        if other is not None:
            raise ValueError(
                f"class names '{other}' and '{name}' differ in capitals or white space alone, which text does not "
                "tell apart; rename one"
            )
        known[key(name)] = name
    return list(names)
