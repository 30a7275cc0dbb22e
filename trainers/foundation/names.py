"""Lists of names that a user gives."""

from __future__ import annotations

from pathlib import Path


def read_names(path: Path) -> list[str]:
    """Read one name a line, without the spaces around it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no text, or has no name, an empty line between names, or a name twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected one class name a line.")
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}); save it as such.") from error
    if not names or "" in names:
        raise ValueError(f"{path} is empty or has an empty line; write one class name a line.")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{path} names {', '.join(twice)} more than once; give every class a name of its own.")
    return names


def listed_names(text: str) -> list[str]:
    """The names in a file, or those that are written side by side with commas between them.

    Raises:
        ValueError: the file is no list of names, see `read_names`.
    """
    if Path(text).is_file():
        return read_names(Path(text))
    return [name.strip() for name in text.split(",")]
