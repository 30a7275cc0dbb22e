from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainers.raw_pictures import png
from trainers.data.colors import ColorTable
from trainers.data.folder import FolderDataset
from trainers.data.labels import LabelTable
from trainers.data.reading import read_ids

COLORS = {"background": (0, 0, 0), "crack": (250, 50, 83), "rust": (0, 120, 255)}
IDS = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
RGB = np.array(list(COLORS.values()), np.uint8)[IDS]
TABLE = ColorTable.of(list(COLORS.values()), range(3), file="colors.txt")


def test_a_lookup_is_a_loop_over_pixels() -> None:
    rng = np.random.default_rng(0)
    colors = [tuple(color) for color in np.unique(rng.integers(0, 256, (40, 3)), axis=0).tolist()]
    ids = rng.permutation(len(colors)).tolist()
    table = ColorTable.of(colors, ids, file="colors.txt")
    mask = np.array(colors, np.uint8)[rng.integers(0, len(colors), (30, 20))]
    expected = [[ids[colors.index(tuple(pixel))] for pixel in row] for row in mask.tolist()]
    assert table.read(mask, name="mask").tolist() == expected


@pytest.mark.parametrize(
    ("name", "mode"),
    [*((f"mask.{end}", mode) for end in ("png", "tif") for mode in ("RGB", "RGBA", "P")), ("mask.bmp", "RGB")],
)
def test_masks_in_colours_are_read_through_the_table(tmp_path: Path, name: str, mode: str) -> None:
    mask = Image.fromarray(RGB)
    mask = mask.quantize(3) if mode == "P" else mask.convert(mode)
    if mode == "RGBA":
        mask.putalpha(0)  # what hides colours does not change them
    mask.save(tmp_path / name)
    assert Image.open(tmp_path / name).mode == mode
    assert read_ids(tmp_path / name, colors=TABLE).tolist() == IDS.tolist()


def test_a_palette_counts_by_its_colours_only_where_there_is_a_table(tmp_path: Path) -> None:
    mask = Image.fromarray(IDS)
    mask.putpalette([value for color in reversed(COLORS.values()) for value in color])
    mask.save(tmp_path / "mask.png")
    assert read_ids(tmp_path / "mask.png").tolist() == IDS.tolist()
    assert read_ids(tmp_path / "mask.png", colors=TABLE).tolist() == (2 - IDS).tolist()


def test_an_unknown_colour_is_told_with_its_count_and_file(tmp_path: Path) -> None:
    mask = RGB.repeat(4, axis=0).repeat(4, axis=1)
    mask[0, :3], mask[1, 0] = (1, 2, 3), (250, 50, 84)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"mask\.png has the colours \(1, 2, 3\) in 3 pixels, \(250, 50, 84\) in 1 "):
        read_ids(tmp_path / "mask.png", colors=TABLE)


def smeared(picture: Image.Image) -> Image.Image:
    """What JPEG leaves of it."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return Image.open(file)


def test_colours_that_jpeg_smeared_tell_the_likely_cause(tmp_path: Path) -> None:
    ids = np.zeros((64, 64), np.uint8)
    ids[10:40, 15:50] = 1
    smeared(Image.fromarray(np.array(list(COLORS.values()), np.uint8)[ids])).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match="which look like traces of JPEG or of smooth resizing"):
        read_ids(tmp_path / "mask.png", colors=TABLE)
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match="has the colours") as error:
        read_ids(tmp_path / "mask.png", colors=TABLE)
    assert "JPEG" not in str(error.value)


def test_ids_that_jpeg_or_resizing_smeared_tell_the_likely_cause() -> None:
    labels = LabelTable.of({0: 0, 10: 1}, expected="there are two")
    ids = np.zeros((64, 64), np.uint8)
    ids[10:40, 15:50] = 10
    resized = Image.fromarray(ids).resize((150, 150), Image.Resampling.BILINEAR)
    for mask in (smeared(Image.fromarray(ids)), resized):
        with pytest.raises(ValueError, match="which look like traces of JPEG or of smooth resizing"):
            labels.read(np.array(mask).astype(np.int64), name="mask")
    # Classes that have no name lie in areas, and a photograph is no mask at all.
    areas = np.kron(np.arange(16).reshape(4, 4), np.ones((8, 8), np.int64))
    noise = np.random.default_rng(0).integers(0, 200, (64, 64))
    for values in (areas, noise):
        with pytest.raises(ValueError, match="has the ids") as error:
            labels.read(values, name="mask")
        assert "JPEG" not in str(error.value)


def test_one_channel_holds_ids_unless_it_may_hold_colours(tmp_path: Path) -> None:
    black_and_white = ColorTable.of([(255, 255, 255), (0, 0, 0)], [0, 1], file="colors.txt")
    for mask in (Image.fromarray(IDS // 2 * np.uint8(255)), Image.fromarray(IDS // 2 == 1)):
        mask.save(tmp_path / "mask.png")
        with pytest.raises(
            ValueError, match=r"has one channel with .*, which may be ids, or grey colours of colors\.t"
        ):
            read_ids(tmp_path / "mask.png", colors=black_and_white)
    Image.fromarray(IDS).save(tmp_path / "mask.png")  # 1 and 2 are no colours
    for table in (TABLE, black_and_white):
        assert read_ids(tmp_path / "mask.png", colors=table).tolist() == IDS.tolist()
    Image.new("L", (3, 2)).save(tmp_path / "mask.png")  # black is the class 0, as the id is
    assert read_ids(tmp_path / "mask.png", colors=TABLE).tolist() == [[0] * 3] * 2


def test_colours_of_16_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(png(RGB.astype(np.uint16) * 257, bits=16))
    with pytest.raises(ValueError, match=r"mask\.png has more than 8 bits a channel; save its colours with 8 bits"):
        read_ids(tmp_path / "mask.png", colors=TABLE)


def test_a_folder_with_colours(tmp_path: Path) -> None:
    for folder in ("images/train", "annotations/train"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(RGB).save(tmp_path / "images/train/a.png")
    Image.fromarray(RGB).save(tmp_path / "annotations/train/a.png")
    (tmp_path / "classes.txt").write_text("rust\nbackground\n")
    with pytest.raises(
        ValueError, match=r"a\.png holds RGB colours, not class ids; .* in colors\.txt, NAME R G B a line"
    ):
        FolderDataset(tmp_path, "train")[0]
    lines = [f"{name} {red} {green} {blue}\n" for name, (red, green, blue) in COLORS.items()]
    (tmp_path / "colors.txt").write_text("".join(lines))
    assert FolderDataset(tmp_path, "train")[0].label.tolist() == np.array([1, 255, 0])[IDS].tolist()
    assert FolderDataset(tmp_path, "train", ignore_ids=(0,))[0].label.tolist() == np.array([1, 255, 255])[IDS].tolist()
    (tmp_path / "classes.txt").unlink()
    dataset = FolderDataset(tmp_path, "train")
    assert dataset.class_names == list(COLORS) and dataset[0].label.tolist() == IDS.tolist()
