"""The names that prompts are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

NONE_NAME = "none"
"""The name of class K+1, "no object"."""


def check_class_names(names: Sequence[str] | None, num_classes: int) -> list[str]:
    """Class names, one for each class.

    Args:
        names: names in the order of the label ids; may be ``None`` for a single class, then "foreground".
        num_classes: K.

    Raises:
        ValueError: if the names are missing, empty, repeated, "none", or not one for each class.
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
    if NONE_NAME in names:
        raise ValueError(f"a class can not be called '{NONE_NAME}': that is the text of no object; rename it")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"class name '{repeated[0]}' appears twice; text can not tell its two classes apart")
    return list(names)
