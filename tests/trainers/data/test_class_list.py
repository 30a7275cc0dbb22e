from __future__ import annotations

from pathlib import Path

import pytest

from trainers.data.class_list import read_class_list, read_class_names
from trainers.data.classes import find_classes
from trainers.data.colors import Color

LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncrack:250,50,83::\n"
COLORS = ((0, 0, 0), (250, 50, 83))


@pytest.mark.parametrize(
    ("text", "colors"),
    [
        ("background\ncrack\n", None),
        ("0: background\n1: crack", None),
        ("0 background\n1 crack\n", None),
        ("0\tbackground\n1\tcrack\n", None),
        ("0,background\n1,crack\n", None),
        (LABELMAP, COLORS),
        ("background:::\ncrack:::\n", None),
        ("background 0 0 0\ncrack 250 50 83\n", COLORS),
        ("# of the masks\nbackground\t0, 0, 0\n\ncrack\t250, 50, 83\n", COLORS),
        ("name,r,g,b\nbackground,0,0,0\ncrack,250,50,83\n", COLORS),
        ("0 0 0\tbackground\n250 50 83\tcrack\n", COLORS),
    ],
)
def test_lists_without_doubt_are_read(tmp_path: Path, text: str, colors: tuple[Color, ...] | None) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text)
    classes = read_class_list(path)
    assert classes.names == ("background", "crack") and classes.colors == colors and classes.problem is None
    assert read_class_names(path) == ["background", "crack"]


@pytest.mark.parametrize("names", [["2 wheeler", "4x4", "car"], ["0", "1", "2"], ["stop sign", "t-shirt", "C# code"]])
def test_numbers_and_signs_in_some_names_are_theirs(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert read_class_names(tmp_path / "classes.txt") == names


@pytest.mark.parametrize(
    ("text", "message", "guess"),
    [
        ("# the classes\nbackground\ncrack\n", "has the comment '# the classes'.*remove it", ("background", "crack")),
        ("__ignore__\n_background_\ncrack\n", "has LabelMe's __ignore__.*remove the line", ("_background_", "crack")),
        ("1 crack\n2 rust\n", r"numbers its classes 1, 2, where ids count 0, 1, 2", ("crack", "rust")),
        ("0: a\n2: b\n", "numbers its classes 0, 2", ("a", "b")),
        ("Pixel Value, Class\n0, a\n1, b\n", "has the heading 'Pixel Value, Class'", ("a", "b")),
        ("names:\n  0: a\n  1: b\n", "has the heading 'names:'", ("a", "b")),
        ('{"a": 0,\n"b": 1}', "has the line .*, which is no name alone", None),
        ("- a\n- b\n", "has the line '- a'", None),
        ("a\tx\nb\ty\n", r"has the line 'a\\tx'", None),
        ("a 0 0 300\nb 1 1 1\n", "has a colour above 255", ("a", "b")),
        ("a 1 1 1\nb 1 1 1\n", r"gives the colour \(1, 1, 1\) to several names", ("a", "b")),
        ("a:1,1,1::\nb:::\n", "gives a colour to some names only", ("a", "b")),
        ("a 1 1 1\na 2 2 2\n", "names a more than once", None),
        ("crack\n", "names the class crack only", None),
    ],
)
def test_lists_that_leave_doubt_are_refused_with_the_remedy(
    tmp_path: Path, text: str, message: str, guess: tuple[str, ...] | None
) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"classes\.txt {message}"):
        read_class_names(path)
    classes = read_class_list(path)
    assert classes.problem is not None and classes.problem.remedy and classes.colors is None
    assert guess is None or classes.names == guess


def test_a_table_of_colours_takes_the_place_of_the_names(tmp_path: Path) -> None:
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    classes = find_classes(tmp_path)
    assert classes.names == ("background", "crack") and classes.file == "labelmap.txt"
    assert classes.colors is not None and classes.colors.ids.tolist() == [0, 1]
    # Our own file goes first, and the names in classes.txt give the order.
    (tmp_path / "colors.txt").write_text("rust 1 2 3\ncrack 3 2 1\nvoid 9 9 9\n")
    (tmp_path / "classes.txt").write_text("crack\nrust\n")
    classes = find_classes(tmp_path)
    assert classes.names == ("crack", "rust") and classes.file == "classes.txt" and not classes.faults
    assert classes.colors is not None and classes.colors.file == "colors.txt"
    assert dict(zip(classes.colors.codes.tolist(), classes.colors.ids.tolist(), strict=True)) == {
        0x010203: 1,
        0x030201: 0,
        0x090909: 255,
    }
    assert [str(remark) for remark in classes.remarks] == [
        f"{tmp_path}/colors.txt has colours for void, which classes.txt does not name; add to classes.txt what is a "
        "class."
    ]


def test_a_table_without_a_class_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    (tmp_path / "classes.txt").write_text("background\ncrack\nrust\n")
    (fault,) = find_classes(tmp_path).faults
    assert str(fault) == (
        f"{tmp_path}/labelmap.txt has no colour for rust of classes.txt; give one to each class of classes.txt, or "
        "remove it if all masks hold ids."
    )


def test_a_labelmap_without_colours_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "labelmap.txt").write_text("a:::\nb:::\n")
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    classes = find_classes(tmp_path)
    assert classes.names == ("sky", "road") and classes.colors is None and not classes.faults
