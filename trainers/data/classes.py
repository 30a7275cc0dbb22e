"""Which files of a folder say what its classes are, and which colours they have in its masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainers.data.batch import IGNORE_INDEX
from trainers.data.class_list import read_class_list
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

    Colours of names that ``classes.txt`` does not have are void.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: a file is empty, or no text.
    """
    tables = [root / name for name in COLOR_FILES if (root / name).is_file()]
    path = root / NAMES_FILE if (root / NAMES_FILE).is_file() or not tables else tables[0]
    table_path = tables[0] if tables else path
    classes, table = read_class_list(path), read_class_list(table_path)
    faults = [each.problem for each in dict.fromkeys((classes, table)) if each.problem is not None]
    if table.colors is None:
        return FolderClasses(classes.names, path.name, None, faults, [])
    ids = {name: id_ for id_, name in enumerate(classes.names)}
    if missing := [name for name in ids if name not in table.names]:
        detail = f"has no colour for {few(missing)} of {path.name}"
        remedy = f"give one to each class of {path.name}, or remove it if all masks hold ids"
        faults.append(Problem("tables of colours that are not whole", str(table_path), detail, remedy, ""))
    remarks = []
    if void := [name for name in table.names if name not in ids]:
        detail = f"has colours for {few(void)}, which {path.name} does not name"
        remedy = f"add to {path.name} what is a class"
        remarks.append(Problem("colours whose pixels are ignored", str(table_path), detail, remedy, ""))
    codes = [ids.get(name, IGNORE_INDEX) for name in table.names]
    colors = ColorTable.of(table.colors, codes, file=table_path.name)
    return FolderClasses(classes.names, path.name, colors, faults, remarks)
