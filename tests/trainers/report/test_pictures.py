from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainers.report import pictures
from trainers.report.pictures import (
    magnify,
    overlay,
    palette,
    save_index_png,
    save_picture,
    side_by_side,
    visible,
    with_legend,
)


def test_palette_is_distinct_and_does_not_depend_on_its_length() -> None:
    colors = palette(255)
    assert colors.dtype == torch.uint8 and colors.shape == (255, 3)
    assert len({tuple(color) for color in colors.tolist()}) == 255
    assert torch.equal(palette(7), colors[:7])
    distance = torch.cdist(palette(20).float(), palette(20).float()) + 1000 * torch.eye(20)
    assert distance.min() >= 60
    assert colors[:4].tolist() == [[128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]


def test_overlay_mixes_and_leaves_ignored_pixels() -> None:
    image = torch.full((3, 1, 3), 100, dtype=torch.uint8)
    label = torch.tensor([[0, 3, 255]])
    assert overlay(image, label).permute(1, 2, 0).tolist() == [[[114, 50, 50], [50, 50, 114], [100, 100, 100]]]
    assert torch.equal(overlay(image, label, alpha=0), image)
    assert overlay(image, label, alpha=1)[:, 0, :2].T.tolist() == palette(4)[[0, 3]].tolist()


def test_overlays_are_tinted_strip_by_strip_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    image, label = torch.randint(0, 256, (3, 31, 7), dtype=torch.uint8), torch.randint(0, 256, (31, 7))
    expected = overlay(image, label)
    monkeypatch.setattr(pictures, "TINTED_PIXELS", 20)
    assert torch.equal(overlay(image, label), expected)
    assert torch.equal(overlay(image, label.to(torch.uint8)), expected)


def test_bands_of_8_bits_are_seen_as_they_are() -> None:
    image = torch.randint(0, 256, (4, 5, 6), dtype=torch.uint8)
    assert torch.equal(visible(image), image[:3])
    assert torch.equal(visible(image, (4, 2, 1)), image[[3, 1, 0]])
    assert torch.equal(visible(image, (4,)), image[[3, 3, 3]])


@pytest.mark.parametrize("dtype", [torch.uint16, torch.float32])
def test_other_bands_are_stretched_each_between_its_percentiles(dtype: torch.dtype) -> None:
    ramp = torch.arange(101).repeat(3, 1)[None]  # of which the 2nd percentile is 2
    image = torch.cat([ramp, ramp * 300 + 5000, ramp.clamp(40, 40)]).to(torch.float32)
    image[0, 0, 100] = 50_000  # a single bright pixel makes no other darker
    seen = visible(image.int().to(dtype), (1, 2, 3)).float()
    expected = ((torch.arange(101) - 2) * (255 / 96)).clamp(0, 255)
    for band in (0, 1):
        assert (seen[band, 1] - expected).abs().max() <= 3
    assert seen[2].unique().numel() == 1
    assert visible(image.int().to(dtype), (2,)).shape == (3, 3, 101)


def test_percentiles_of_a_large_image_are_those_of_a_part_of_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(1, 300, 300)
    expected = visible(image, (1,)).float()
    monkeypatch.setattr(pictures, "MEASURED_PIXELS", 900)
    assert (visible(image, (1,)).float() - expected).abs().max() < 12


def test_side_by_side_leaves_a_white_gap_and_a_line_for_captions() -> None:
    row = side_by_side([torch.zeros(3, 2, 3, dtype=torch.uint8)] * 3, ["", "", ""], gap=2)
    assert row.shape == (3, 21 + 2, 13) and (row[:, :21] == 255).all()
    assert (row[0, -1] == 255).nonzero().flatten().tolist() == [3, 4, 8, 9]


def test_a_caption_stands_over_the_middle_of_its_picture() -> None:
    row = side_by_side([torch.zeros(3, 2, 100, dtype=torch.uint8)] * 2, ["", "truth"])
    dark = (row[0, :21] < 128).any(0).nonzero().flatten()
    assert abs((dark.min() + dark.max()) / 2 - 154) < 2 and dark.max() - dark.min() > 15


def test_text_is_as_large_in_a_picture_that_is_shown_smaller() -> None:
    label, names = torch.arange(2), ["sky", "road"]
    strips = [with_legend(torch.zeros(3, 8, width, dtype=torch.uint8), label, names)[:, 8:] for width in (400, 1600)]
    assert strips[1].shape[1] == 4 * strips[0].shape[1]


def test_magnified_pictures_keep_their_pixels() -> None:
    picture = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3).expand(3, 2, 3)
    assert magnify(picture, 6)[0].tolist() == [[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]] * 2
    assert torch.equal(magnify(picture, 2), picture)


def test_legend_names_the_classes_that_are_there() -> None:
    picture = torch.zeros(3, 40, 300, dtype=torch.uint8)
    names = ["sky", "road", "car", "tree"]
    out = with_legend(picture, torch.tensor([[0, 2, 255]]), names)
    assert torch.equal(out[:, :40], picture) and out.shape[2] == 300
    shown = {tuple(color) for color in out[:, 40:].flatten(1).T.tolist()}
    colors = [tuple(color) for color in palette(4).tolist()]
    assert colors[0] in shown and colors[2] in shown
    assert colors[1] not in shown and colors[3] not in shown


def test_legend_of_many_classes_grows_and_of_a_narrow_picture_widens() -> None:
    names = [f"class number {i}" for i in range(40)]
    few = with_legend(torch.zeros(3, 40, 300, dtype=torch.uint8), torch.arange(2), names)
    many = with_legend(torch.zeros(3, 40, 300, dtype=torch.uint8), torch.arange(40), names)
    assert many.shape[1] > few.shape[1] + 100
    narrow = with_legend(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.arange(2), names)
    assert narrow.shape[2] > 80 and (narrow[:, :8, 8:] == 255).all()


def test_index_png_holds_the_ids_and_the_colours(tmp_path: Path) -> None:
    label = torch.tensor([[0, 1, 254], [5, 255, 2]])
    save_index_png(label, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.mode == "P"
        assert np.array(image).tolist() == label.tolist()
        rgb = np.array(image.convert("RGB"))
    assert rgb[0, 1].tolist() == palette(2)[1].tolist() and rgb[1, 1].tolist() == [255, 255, 255]


def test_picture_is_written_as_it_is(tmp_path: Path) -> None:
    picture = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    save_picture(picture, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert np.array(image).tolist() == picture.permute(1, 2, 0).tolist()
