"""The file that lists a dataset's classes, by name or by name and colour, in the ways that tools write it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.data.batch import IGNORE_INDEX
from trainers.data.colors import Color
from trainers.data.problems import Problem, UnfitFileError, few

_HEADING = re.compile(r"name[\s,;]+r(ed)?[\s,;]+g(reen)?[\s,;]+b(lue)?", re.IGNORECASE)
_RED, _GREEN, _BLUE = (rf"(?P<{channel}>\d{{1,3}})" for channel in ("red", "green", "blue"))
_COLORED = (
    re.compile(rf"(?P<name>[^:]+):(?:{_RED},{_GREEN},{_BLUE})?:[^:]*:[^:]*"),  # CVAT: crack:250,50,83::
    re.compile(rf"(?P<name>.*[^\s,;])[\s,;]+{_RED}[\s,;]+{_GREEN}[\s,;]+{_BLUE}"),
    re.compile(rf"{_RED}[\s,;]+{_GREEN}[\s,;]+{_BLUE}[\s,;]+(?P<name>\S.*)"),
)
_NUMBERED = re.compile(r"(\d+)\s*[\s:;,.=)]\s*(\S.*)")
_MARKUP = re.compile(r"""[\[\]{}"].*|-\s.*|.*[:;,\[{]|.*\t.*""")
_NAMES_ALONE = "write one class name a line and nothing else, in the order of the ids, which count from 0"


@dataclass(frozen=True)
class ClassList:
    """What a file says of the classes.

    Attributes:
        names: in the order of the ids.
        colors: of each name its colour; ``None`` where the file has none.
        problem: why the file cannot be taken as it is. The names are then the best guess.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...] | None = None
    problem: Problem | None = None


def read_class_names(path: Path) -> list[str]:
    """Read the names of the classes, in the order of the ids.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be taken for a list of classes, see `read_class_list`.
    """
    classes = read_class_list(path)
    if classes.problem is not None:
        raise UnfitFileError(classes.problem)
    return list(classes.names)


def read_class_list(path: Path) -> ClassList:
    """Read a list of classes in one of the forms that leave no doubt.

    These are one name a line; ``0: name``, ``0 name`` and their like where the numbers count up from 0; and a colour
    for each name, as ``name r g b``, ``r g b name`` or CVAT's labelmap ``name:r,g,b:parts:actions`` in all lines, where
    lines that begin with # are comments. Of any other, such as LabelMe's ``__ignore__``, comments between names, a
    number that is missing, a heading or YAML, the problem is told.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, or no text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected one class name a line, in the order of the ids.")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}); save it as such.") from error
    if not any(lines):
        raise ValueError(f"{path} is empty or has an empty line; write one class name a line.")
    colored = _read_colored(lines)
    names, complaint = ([name for name, _ in colored], None) if colored else _read_plain(lines)
    colors = [color for _, color in colored or () if color is not None]
    if colors and len(colors) < len(names):
        complaint = "gives a colour to some names only", "give one to each, or to none"
    elif any(max(color) > 255 for color in colors):
        complaint = "has a colour above 255", "write red, green and blue as 0 to 255"
    elif twice := _twice(colors):
        complaint = f"gives the colour {twice} to several names", "give every class a colour of its own"
    complaint = complaint or _complaint_about(names)
    problem = complaint and Problem("lists of classes that leave doubt", str(path), *complaint, subject="")
    return ClassList(tuple(names), tuple(colors) if colors and not complaint else None, problem)


def _read_colored(lines: Sequence[str]) -> list[tuple[str, Color | None]]:
    """Names and colours, if all lines have them in one form, or none."""
    lines = [line for line in lines if line and not line.startswith("#")]
    lines = lines[1:] if lines and _HEADING.fullmatch(lines[0]) else lines
    for form in _COLORED:
        matches = [form.fullmatch(line) for line in lines]
        if matches and all(matches):
            return [_colored(match) for match in matches if match]
    return []


def _colored(match: re.Match[str]) -> tuple[str, Color | None]:
    color = None if match["red"] is None else (int(match["red"]), int(match["green"]), int(match["blue"]))
    return match["name"].strip(), color


def _read_plain(lines: Sequence[str]) -> tuple[list[str], tuple[str, str] | None]:
    """Names, and what is wrong with them and its remedy."""
    names = [line for line in lines if line]
    complaint = ("has an empty line", "write one class name a line") if "" in lines else None
    if comments := [line for line in names if line.startswith("#")]:
        complaint = f"has the comment {comments[0]!r}, where every line is a class", f"remove it; {_NAMES_ALONE}"
    if "__ignore__" in names:
        complaint = (
            "has LabelMe's __ignore__, which is no class",
            "remove the line: in LabelMe's masks the name after it has the id 0",
        )
    names = [name for name in names if name != "__ignore__" and not name.startswith("#")]
    numbered = [_NUMBERED.fullmatch(name) for name in names]
    numbers = [int(match[1]) for match in numbered if match]
    headed = len(numbers) > 1 and numbered[0] is None and numbers == list(range(len(names) - 1))
    if names and all(numbered):
        if numbers != list(range(len(names))):
            shown = few([str(number) for number in numbers])
            complaint = f"numbers its classes {shown}, where ids count 0, 1, 2", _NAMES_ALONE
        names = [match[2] for match in numbered if match]
    elif headed:
        complaint = f"has the heading {names[0]!r}", _NAMES_ALONE
        names = [match[2] for match in numbered if match]
    if markup := [name for name in names if _MARKUP.fullmatch(name)]:
        complaint = f"has the line {markup[0]!r}, which is no name alone", _NAMES_ALONE
    return names, complaint


def _complaint_about(names: Sequence[str]) -> tuple[str, str] | None:
    """What is wrong with names of classes and its remedy."""
    if not names:
        return "names no class", _NAMES_ALONE
    if len(names) == 1:
        return f"names the class {names[0]} only", f"name what is not {names[0]} too, as a class"
    if twice := _twice(names):
        return f"names {twice} more than once", "give every class a name of its own"
    if len(names) > IGNORE_INDEX:
        return f"names {len(names)} classes", f"at most {IGNORE_INDEX} fit into a mask of 8 bits"
    return None


def _twice(items: Sequence[object]) -> str:
    return ", ".join(sorted({str(item) for item in items if items.count(item) > 1}))
