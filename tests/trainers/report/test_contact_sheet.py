from __future__ import annotations

import tracemalloc
from base64 import b64decode, b64encode
from hashlib import sha256
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from trainers.report.contact_sheet import THUMBNAIL_BYTES, THUMBNAIL_SIDE, class_shares, contact_sheet, thumbnail
from trainers.report.pictures import overlay, palette

NAMES = ["sky", "road", "car"]


class Page(HTMLParser):
    """The elements of a page with their attributes, and all of its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def decode(address: str | None) -> Image.Image:
    start, _, data = str(address).partition(",")
    assert start == "data:image/jpeg;base64"
    return Image.open(BytesIO(b64decode(data)))


def write(path: Path, *, pictures: int = 1, name: str = "a.jpg", class_names: list[str] = NAMES) -> Page:
    image = torch.full((3, 20, 40), 100, dtype=torch.uint8)
    label = torch.zeros(20, 40, dtype=torch.int64)
    label[:, 30:] = 2
    with contact_sheet(path, class_names) as sheet:
        for _ in range(pictures):
            sheet.add(name, image, overlay(image, label), label, link=f"{name}_overlay.png")
    return Page(path)


def test_a_card_has_image_overlay_legend_and_shares(tmp_path: Path) -> None:
    page = write(tmp_path / "index.html")
    image, tinted = (decode(element["src"]) for element in page.all("img"))
    assert image.size == tinted.size == (40, 20)
    assert image.getpixel((5, 5)) == (100, 100, 100)
    assert all(abs(got - want) <= 3 for got, want in zip(tinted.getpixel((5, 5)), (114, 50, 50), strict=True))
    assert [(item["data-name"], item["data-share"]) for item in page.all("li")] == [
        ("sky", "0.750000"),
        ("car", "0.250000"),
    ]
    red, green, blue = palette(3)[2].tolist()
    assert [swatch["style"] for swatch in page.all("i")] == [
        "background:#800000",
        f"background:#{red:02x}{green:02x}{blue:02x}",
    ]
    assert {"a.jpg", "40 \N{MULTIPLICATION SIGN} 20 pixels", "75.0%", "25.0%", "1 picture"} <= set(page.text)
    assert all(element["alt"] for element in page.all("img"))
    assert page.all("a") == [{"href": "a.jpg_overlay.png"}]


def test_many_classes_are_folded_and_a_trace_is_not_called_zero(tmp_path: Path) -> None:
    label = torch.zeros(100, 100, dtype=torch.int64)
    label[0, :9] = torch.arange(1, 10)
    picture = torch.zeros(3, 100, 100, dtype=torch.uint8)
    with contact_sheet(tmp_path / "index.html", [f"class {i}" for i in range(10)]) as sheet:
        sheet.add("a", picture, picture, label, link="a.png")
    page = Page(tmp_path / "index.html")
    assert len(page.all("li")) == 10 and len(page.all("details")) == 1
    assert {"99.9%", "< 0.1%", "4 more"} <= set(page.text) and "0.0%" not in page.text


def test_shares_are_sorted_and_leave_out_what_is_not_there() -> None:
    assert class_shares(torch.tensor([[3, 3, 3, 1], [0, 0, 3, 1]])) == {3: 0.5, 0: 0.25, 1: 0.25}


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "&lt;b&gt;"]
)
def test_names_are_text_wherever_they_stand(tmp_path: Path, name: str) -> None:
    harmless = write(tmp_path / "harmless.html", class_names=["x", "y", "z"])
    page = write(tmp_path / "index.html", name=name, class_names=[f"{name}{i}" for i in range(3)])
    shape = [(tag, set(attributes)) for tag, attributes in page.elements]
    assert shape == [(tag, set(attributes)) for tag, attributes in harmless.elements]
    assert {name, f"{name}0", f"{name}2"} <= set(page.text)
    assert [item["data-name"] for item in page.all("li")] == [f"{name}0", f"{name}2"]


def test_a_reason_is_text_too(tmp_path: Path) -> None:
    with contact_sheet(tmp_path / "index.html", NAMES) as sheet:
        sheet.add_failure("<b>.jpg", "Cannot read <b>.jpg")
    page = Page(tmp_path / "index.html")
    assert page.all("b") == [] and {"<b>.jpg", "Cannot read <b>.jpg"} <= set(page.text)
    assert "0 pictures, 1 could not be read" in page.text


@pytest.mark.parametrize("name", ["javascript:alert(1)", "a b?#%.jpg", "\udcff"])
def test_a_link_is_a_file_beside_the_page(tmp_path: Path, name: str) -> None:
    (link,) = write(tmp_path / "index.html", name=name).all("a")
    assert not set(":?# \udcff") & set(str(link["href"]))


def test_the_page_may_load_nothing_and_run_its_own_script_only(tmp_path: Path) -> None:
    page = write(tmp_path / "index.html")
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    script = text[text.index("<script>") + len("<script>") : text.index("</script>")]
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in str(policy)
    assert page.all("link") == [] and page.all("script") == [{}] and "http://" not in text and "https://" not in text


def test_a_page_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    write(path)
    before = path.read_bytes()

    def cut_off() -> None:
        with contact_sheet(path, NAMES) as sheet:
            sheet.add_failure("a.jpg", "gone")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_off()
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"] and path.read_bytes() == before


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    picture = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    label = torch.zeros(64, 64, dtype=torch.int64)
    memory = []
    tracemalloc.start()
    with contact_sheet(tmp_path / "index.html", NAMES) as sheet:
        for _ in range(200):
            sheet.add("a.jpg", picture, picture, label, link="a.png")
            memory.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert memory[-1] - memory[20] < 0.1 * (tmp_path / "index.html").stat().st_size


@pytest.mark.parametrize(("size", "small"), [((30, 20), (30, 20)), ((960, 720), (240, 180)), ((2000, 3), (240, 1))])
def test_a_thumbnail_is_small_whatever_it_shows(size: tuple[int, int], small: tuple[int, int]) -> None:
    assert max(small) <= THUMBNAIL_SIDE
    width, height = size
    address = thumbnail(torch.randint(0, 256, (3, height, width), dtype=torch.uint8))
    assert decode(address).size == small
    noise = thumbnail(torch.randint(0, 256, (3, 240, 240), dtype=torch.uint8))
    assert len(b64decode(noise.partition(",")[2])) <= THUMBNAIL_BYTES
