from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from math import inf, nan
from pathlib import Path

import pytest

from benchmarks.comparison.figures import (
    accuracy_against,
    class_bars,
    contender_styles,
    curves,
    intervals,
    save_png,
)
from benchmarks.comparison.page import PageCell, PageColumn, PageTable, write_page
from benchmarks.comparison.records import Costs
from benchmarks.comparison.summary import Row, Spread

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "&lt;b&gt;",
    "TITLE",
]
VOID = {"meta", "input", "img"}
COSTS = Costs(
    encoder_parameters=20_000_000,
    decoder_parameters=5_000_000,
    flops=10**10,
    latency=0.03,
    step_seconds=0.5,
    step_bytes=2**30,
    machine="an abacus",
)


class Page(HTMLParser):
    """The elements of a page with their attributes and texts; all that is opened is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.cells: list[tuple[dict[str, str | None], str, bool]] = []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("td", "th"):
            self.cells.append((dict(attrs), "", False))
        elif tag == "b":
            attributes, text, _ = self.cells.pop()
            self.cells.append((attributes, text, True))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if {"td", "th"} & set(self._open):
            attributes, text, bold = self.cells.pop()
            self.cells.append((attributes, text + data, bold))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def a_row(
    contender: str, encoder: str = "tu-resnet50", *, classes: int = 3, points: int = 5, shift: float = 0.0
) -> Row:
    """A row of three seeds."""
    values = tuple(0.5 + shift + 0.01 * seed for seed in range(3))
    return Row(
        contender=contender,
        encoder=encoder,
        seeds=(0, 1, 2),
        mean_iou=Spread(values),
        boundary_iou=Spread(values),
        class_iou={f"a class {index}": (0.37 * index + shift) % 1 for index in range(classes)},
        curve=tuple((100 * step, 0.1 * step + shift) for step in range(1, points + 1)),
        costs=replace(COSTS, latency=0.03 + shift, decoder_parameters=int(1e6 + 1e8 * shift)),
    )


def many_rows(encoders: int = 1) -> list[Row]:
    """Twenty rows of 59 classes."""
    return [
        a_row(f"contender {index // encoders}", f"tu-encoder_{index % encoders}", classes=59, shift=0.013 * index)
        for index in range(20)
    ]


def a_table(name: str = "head") -> PageTable:
    columns = [PageColumn(name), PageColumn("mIoU", numeric=True, best="high"), PageColumn("ms", True, "low")]
    rows = [
        [PageCell(name), PageCell("60.1 ± 0.3", 0.601234567890123), PageCell("12", 0.1 + 0.2)],
        [PageCell("b"), PageCell("60.1 ± 0.4", 0.6012345678901231), PageCell("-")],
        [PageCell("c"), PageCell("7.0", 0.07), PageCell("0", 0)],
        [PageCell("d"), PageCell("nan", nan), PageCell("inf", -inf)],
    ]
    return PageTable(f"Table of {name}", columns, rows, f"Note of {name}")


def write(path: Path, *, name: str = "head", rows: list[Row] | None = None) -> Page:
    shown = rows or [a_row(name), a_row("other", shift=0.1)]
    figure = intervals(shown)
    assert figure is not None
    write_page(path, title=name, introduction=[name, "More"], tables=[a_table(name)], figures=[(name, figure)])
    return Page(path)


def test_values_to_sort_by_are_exact_and_only_where_there_is_one(tmp_path: Path) -> None:
    page = write(tmp_path / "page.html")
    body = [cell for cell in page.cells if cell[0].get("scope") != "col"]
    found = [float(value) if (value := attributes.get("data-sort")) else None for attributes, _, _ in body]
    assert found == [None, 0.601234567890123, 0.1 + 0.2, None, 0.6012345678901231, None, None, 0.07, 0.0, *[None] * 3]
    assert [text for _, text, _ in body[:3]] == ["head", "60.1 ± 0.3", "12"]
    numeric = [attributes.get("class") == "number" for attributes, _, _ in page.cells]
    assert numeric == [False, True, True] * 5


def test_the_best_value_is_bold_in_the_page_and_in_markdown(tmp_path: Path) -> None:
    page = write(tmp_path / "page.html")
    assert [text for _, text, bold in page.cells if bold] == ["60.1 ± 0.4", "0"]
    assert a_table().to_markdown() == (
        "## Table of head\n\n| head | mIoU | ms |\n| --- | --- | --- |\n| head | 60.1 ± 0.3 | 12 |\n"
        "| b | **60.1 ± 0.4** | - |\n| c | 7.0 | **0** |\n| d | nan | inf |\n\nNote of head"
    )


def test_equals_are_all_best_unless_there_is_nothing_else() -> None:
    columns = [PageColumn("a", True, "high"), PageColumn("b", True, "high"), PageColumn("c", True)]
    rows = [[PageCell(str(value), value) for value in (value, 1, value)] for value in (2, 1, 2)]
    lines = PageTable("", columns, rows).to_markdown().splitlines()[-3:]
    assert lines == ["| **2** | 1 | 2 |", "| 1 | 1 | 1 |", "| **2** | 1 | 2 |"]


def test_a_bar_does_not_end_a_cell_of_markdown() -> None:
    table = PageTable("t", [PageColumn("a|b")], [[PageCell("c|d", 1)]])
    assert table.to_markdown() == "## t\n\n| a\\|b |\n| --- |\n| c\\|d |"


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_wherever_they_stand(tmp_path: Path, name: str) -> None:
    harmless = write(tmp_path / "harmless.html")
    page = write(tmp_path / "page.html", name=name)
    shape = [(tag, set(attributes)) for tag, attributes in page.elements]
    assert shape == [(tag, set(attributes)) for tag, attributes in harmless.elements]
    assert page.text.count(name) == 6  # title, heading, paragraph, column, cell and caption
    assert {f"Table of {name}", f"Note of {name}"} <= set(page.text)
    assert [image["alt"] for image in page.all("img")] == [f"mIoU in percent: {name} 51.0 ± 1.0; other 61.0 ± 1.0."]
    assert [field["aria-label"] for field in page.all("input")] == [f"Filter Table of {name}"]


def test_a_figure_without_a_label_is_described_by_its_caption(tmp_path: Path) -> None:
    figure = intervals([a_row("a")])
    assert figure is not None
    figure.set_label("")
    write_page(tmp_path / "page.html", title="t", introduction=[], tables=[], figures=[("Of <seeds>", figure)])
    assert [image["alt"] for image in Page(tmp_path / "page.html").all("img")] == ["Of <seeds>"]


def test_the_page_may_load_nothing_and_run_its_own_script_only(tmp_path: Path) -> None:
    page = write(tmp_path / "page.html", name=HOSTILE[0])
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    script = text[text.index("<script>") + len("<script>") : text.index("</script>")]
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in str(policy)
    assert page.all("link") == [] and page.all("script") == [{}] and "http://" not in text and "https://" not in text
    start, _, picture = str(page.all("img")[0]["src"]).partition(",")
    assert start == "data:image/svg+xml;base64" and b"<svg" in b64decode(picture)


def test_headings_of_tables_have_names_of_their_own(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", title="t", introduction=[], tables=[a_table(), a_table()], figures=[])
    page = Page(tmp_path / "page.html")
    names = [heading["id"] for heading in page.all("h2")]
    assert len(set(names)) == 2 and [table["aria-labelledby"] for table in page.all("table")] == names


def test_a_page_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results" / "page.html"
    write(path)
    before = path.read_bytes()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(path, name="other")
    assert path.read_bytes() == before


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / f"{name}.html", rows=many_rows())
        figure = class_bars(many_rows())
        assert figure is not None
        save_png(figure, tmp_path / f"{name}.png")
    for kind in ("html", "png"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


@pytest.mark.parametrize("encoders", [1, 4])
def test_figures_of_many_rows_and_classes_are_small(tmp_path: Path, encoders: int) -> None:
    rows = many_rows(encoders)
    figures = [
        accuracy_against(rows, "latency"),
        accuracy_against(rows, "parameters"),
        class_bars(rows),
        curves(rows),
        intervals(rows),
    ]
    for figure in figures:
        assert figure is not None and figure.get_label()
        save_png(figure, tmp_path / "figure.png")
        assert 5_000 < (tmp_path / "figure.png").stat().st_size < 200_000


def test_accuracy_is_drawn_against_costs_in_their_units() -> None:
    rows = [a_row("a"), replace(a_row("b"), costs=None), a_row("c", "tu-swin", shift=0.1)]
    for axis, wanted in (("latency", [30, 130]), ("parameters", [21, 31])):
        figure = accuracy_against(rows, axis)
        assert figure is not None
        points = [bars.lines[0].get_xydata()[0] for bars in figure.axes[0].containers]
        assert [x for x, _ in points] == pytest.approx(wanted) and [y for _, y in points] == pytest.approx([51, 61])
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert texts == ["Contender", "a", "c", "Encoder", "tu-resnet50", "tu-swin"]


def test_there_is_no_figure_where_there_is_nothing_to_draw() -> None:
    without = replace(a_row("a", points=1), costs=None, class_iou={"sky": None})
    assert accuracy_against([without], "latency") is None
    assert curves([without, a_row("b", points=0)]) is None
    assert class_bars([without]) is None
    for rows in ([], ()):
        assert accuracy_against(rows, "parameters") is class_bars(rows) is curves(rows) is intervals(rows) is None


def test_curves_have_a_line_for_each_row_with_one() -> None:
    figure = curves([a_row("a"), a_row("b", points=1), a_row("c", shift=0.1)])
    assert figure is not None
    lines = figure.axes[0].get_lines()
    assert [list(line.get_xdata()) for line in lines] == [[100, 200, 300, 400, 500]] * 2
    assert lines[1].get_ydata() == pytest.approx([20, 30, 40, 50, 60])


def test_a_contender_looks_the_same_in_all_figures() -> None:
    rows = [a_row(name) for name in "abcdefghijklmnopqrstu"]
    styles = contender_styles(rows)
    assert len(set(styles.values())) == len(rows)
    part = [rows[9], rows[4]]
    for figure in (curves(part, styles=styles), class_bars(part, styles=styles), intervals(part, styles=styles)):
        assert figure is not None
        drawn = [line.get_color() for line in figure.axes[0].get_lines()]
        assert {styles["j"].color, styles["e"].color} <= set(drawn)


def test_classes_are_sorted_by_the_first_row_and_those_without_iou_are_left_out() -> None:
    first, second = a_row("a"), a_row("b")
    first = replace(first, class_iou={"sky": 0.5, "car": 0.9, "sign": None, "tree": 0.2, "none": None})
    second = replace(second, class_iou={"sky": 0.6, "car": 0.6, "sign": 0.4, "tree": 0.4, "none": None})
    figure = class_bars([first, second])
    assert figure is not None
    # Places rise from the bottom to the top.
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()][::-1]
    assert names == ["car", "sky", "tree", "sign"]


def test_a_single_seed_and_a_failed_training_are_drawn(tmp_path: Path) -> None:
    rows = [
        replace(a_row("a"), mean_iou=Spread((0.5,)), curve=()),
        replace(a_row("b"), mean_iou=Spread((nan,)), class_iou={"a class 0": None}),
    ]
    for figure in (accuracy_against(rows, "latency"), intervals(rows), class_bars(rows), curves(rows)):
        assert figure is not None
        save_png(figure, tmp_path / "figure.png")
