"""Which files of a folder say what its classes are, and which colours they have in its masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.data.batch import IGNORE_INDEX
from trainers.data.class_list import ClassList, read_class_list
from trainers.data.colors import ColorTable
from trainers.data.problems import Problem, few

NAMES_FILE = "classes.txt"
COLOR_FILES = ("colors.txt", "labelmap.txt")


@dataclass(frozen=True)
class FolderClasses:
    """The classes of a dataset.

    Attributes:
        names: in the order of the ids.
        file: the name of the file that lists them.
        colors: the ids of the colours in its masks; ``None`` where the masks are not in colours.
        faults: what leaves doubt; the likeliest was taken.
        remarks: what the user should know.
    """

    names: tuple[str, ...]
    file: str
    colors: ColorTable | None
    faults: list[Problem]
    remarks: list[Problem]


def find_classes(root: Path) -> FolderClasses:
    """Read ``classes.txt`` and, if there is one, the table of colours, which can also take its place.

    Colours of names that ``classes.txt`` does not have are void. A ``labelmap.txt`` that does not fit ``classes.txt``
    may be what a tool has left there: it is remarked, and masks are then not in colours.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: a file is empty, or no text.
    """
    tables = [root / name for name in COLOR_FILES if (root / name).is_file()]
    path = root / NAMES_FILE if (root / NAMES_FILE).is_file() or not tables else tables[0]
    classes = read_class_list(path)
    faults = [] if classes.problem is None else [classes.problem]
    if not tables or tables[0] == path:
        return FolderClasses(classes.names, path.name, _number(classes, classes.names, path), faults, [])
    table = read_class_list(tables[0])
    if unfit := _compare(table, tables[0], classes, path):
        if tables[0].name == COLOR_FILES[0]:
            faults.append(unfit)
        else:
            return FolderClasses(classes.names, path.name, None, faults, [unfit])
    remarks = []
    if void := [name for name in table.names if name not in classes.names]:
        detail = f"has colours for {few(void)}, which {path.name} does not name"
        remedy = f"add to {path.name} what is a class"
        remarks.append(Problem("colours whose pixels are ignored", str(tables[0]), detail, remedy, ""))
    return FolderClasses(classes.names, path.name, _number(table, classes.names, tables[0]), faults, remarks)


def _compare(table: ClassList, table_path: Path, classes: ClassList, path: Path) -> Problem | None:
    """Why a table of colours does not fit the list of classes."""
    missing = [name for name in classes.names if name not in table.names]
    if table.colors is None:
        detail = "gives no colours" if table.problem is None else table.problem.detail
    elif missing:
        detail = f"has no colour for {few(missing)} of {path.name}"
    else:
        return None
    remedy = f"write NAME R G B for each class of {path.name}, or remove it if all masks hold ids"
    return Problem("tables of colours that do not fit the classes", str(table_path), detail, remedy, "")


def _number(table: ClassList, names: Sequence[str], path: Path) -> ColorTable | None:
    if table.colors is None:
        return None
    ids = [names.index(name) if name in names else IGNORE_INDEX for name in table.names]
    return ColorTable.of(table.colors, ids, file=path.name)
