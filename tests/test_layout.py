"""The plan of the house: which wing may use which, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up: a room uses rooms of floors below its own, never of its own floor or above it.
FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "mtaclip_plugin": (
        ("arguments", "structures", "text"),
        ("encoders", "losses"),
        ("decoder", "inference"),
        ("model",),
        ("weights", "registration"),
    ),
    "trainers": (
        ("foundation", "models", "scores"),
        ("options", "data"),
        ("engine", "text"),
        ("report",),
        ("run",),
        ("assemble",),
        ("train", "evaluate", "predict", "check_data"),
    ),
}
PACKAGES = ("mtaclip_plugin", "trainers", "benchmarks")  # each may use those before it
MOST_ROOMS = {"mtaclip_plugin": 12, "trainers": 14}


def modules(package: str) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules among the known ones that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import: write the whole name"
            # What is imported may be a module itself, or a name of one.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name not in known:
                name = name.rpartition(".")[0]
            if name in known:
                yield name


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    known = {name: path for package in PACKAGES for name, path in modules(package).items()}
    return {name: set(imports(path, known)) for name, path in known.items()}


def test_packages_use_only_those_below(graph) -> None:
    order = {package: number for number, package in enumerate(PACKAGES)}
    wrong = [
        (name, used)
        for name, targets in graph.items()
        for used in targets
        if order[used.split(".")[0]] > order[name.split(".")[0]]
    ]
    assert not wrong


@pytest.mark.parametrize("package", FLOORS)
def test_rooms_use_only_floors_below(graph, package) -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS[package]) for room in rooms}
    rooms = {name.split(".")[1] for name in graph if name.startswith(f"{package}.")}
    assert rooms == set(floor), "a new room needs its floor in this table"
    wrong = []
    for name, targets in graph.items():
        if not name.startswith(f"{package}."):
            continue
        room = name.split(".")[1]
        for used in targets:
            other = used.split(".")[1] if used.startswith(f"{package}.") else None
            if other is not None and other != room and floor[other] >= floor[room]:
                wrong.append((name, used))
    assert not wrong


def test_no_module_imports_itself_on_the_way(graph) -> None:
    # A package's front is made of its modules: whoever imports one of them runs it, which is no circle of ours.
    edges = {
        name: {used for used in targets if not name.startswith(f"{used}.")} - {name} for name, targets in graph.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for used in edges[name]:
                visit(used, (*path, name))
            done.add(name)

    for name in edges:
        visit(name, ())


@pytest.mark.parametrize("package", FLOORS)
def test_few_rooms_side_by_side(package) -> None:
    rooms = {name.split(".")[1] for name in modules(package) if "." in name}
    front = (ROOT / package / "__init__.py").read_text(encoding="utf-8")
    rooms_of_a_newcomer = len(rooms) + ("import" in front)  # a front that imports is one to read, too
    assert rooms_of_a_newcomer <= MOST_ROOMS[package]


@pytest.mark.parametrize("front", [p for package in FLOORS for p in sorted((ROOT / package).glob("*/__init__.py"))])
def test_fronts_say_what_a_wing_is_for_and_hand_on_names(front) -> None:
    tree = ast.parse(front.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{front} says nothing"
    kept = (ast.ImportFrom, ast.Assign, ast.Expr)
    assert all(isinstance(node, kept) for node in tree.body)
