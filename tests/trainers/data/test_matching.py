from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from trainers.data.files import find_files
from trainers.data.folder import FolderDataset
from trainers.data.matching import match_files
from trainers.data.problems import one_line_each
from trainers.data.reading import IMAGE_SUFFIXES
from trainers.data.stored import FORMATS


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def below(folder: Path, paths: list[Path]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_every_format_that_is_read_is_looked_for() -> None:
    Image.init()
    of_pillow = {suffix for suffix, form in Image.registered_extensions().items() if form in FORMATS}
    assert of_pillow - {".pfm"} == set(IMAGE_SUFFIXES)  # .pfm is float, which no image and no mask may be


def test_files_are_found_in_folders_of_folders_and_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a/z.tif", "a/b/c.webp", "a.bmp", "notes.txt", "a/raw.heic", ".hidden.png", ".git/x.png")
    found = find_files(tmp_path)
    assert below(tmp_path, found.pictures) == ["a/b/c.webp", "a/z.tif", "a.bmp", "b.JPG"]
    assert below(tmp_path, found.others) == [".git/x.png", ".hidden.png", "a/raw.heic", "notes.txt"]
    (line,) = one_line_each(found.remarks)
    assert line.startswith(f"files left aside, hidden or no pictures by their suffix (4): {tmp_path}/.git/x.png, ")
    assert "and 1 more; of pictures, save those that are to be used as one of .png, " in line
    assert below(tmp_path, find_files(tmp_path, without=tmp_path / "a").pictures) == ["a.bmp", "b.JPG"]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "data/a/x.png", "elsewhere/y.png")
    (tmp_path / "data/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/a/loop").symlink_to(tmp_path / "data")
    assert below(tmp_path / "data", find_files(tmp_path / "data").pictures) == ["a/x.png", "b/y.png"]


@pytest.mark.parametrize(
    ("suffix", "masks"),
    [
        ("", {"city/a": "city/a.PNG", "b": "b.tif"}),
        ("_mask", {"city/a": "city/a_mask.png", "b": "b_MASK.Bmp"}),
        ("_mask.tif", {"city/a": "city/a_mask.tif", "b": "b_mask.TIF"}),
        (".png", {"city/a": "city/a.png", "b": "b.PNG"}),
    ],
)
def test_masks_are_found_by_name_and_suffix(tmp_path: Path, suffix: str, masks: dict[str, str]) -> None:
    images, annotations = tmp_path / "images", tmp_path / "annotations"
    touch(images, "city/a.jpg", "b.webp", "c.png")
    touch(annotations, *masks.values(), "spare_label.png")
    files = match_files(images, annotations, mask_suffix=suffix)
    expected = "c_mask.tif" if suffix == "_mask.tif" else f"c{suffix.removesuffix('.png')}.png"
    assert {pair.name: pair.mask.relative_to(annotations).as_posix() for pair in files.pairs} == masks | {"c": expected}
    assert [pair.name for pair in files.pairs] == ["b", "c", "city/a"] and not files.faults
    assert [remark.path for remark in files.remarks] == [str(annotations / "spare_label.png")]


def test_a_png_goes_before_other_masks_of_its_image(tmp_path: Path) -> None:
    touch(tmp_path / "images", "a.jpg")
    touch(tmp_path / "masks", "a.png", "a.jpg")
    files = match_files(tmp_path / "images", tmp_path / "masks")
    assert files.pairs[0].mask.name == "a.png" and not files.faults
    assert [Path(remark.path).name for remark in files.remarks] == ["a.jpg"]
    touch(tmp_path / "masks", "a.PNG")
    (fault,) = match_files(tmp_path / "images", tmp_path / "masks").faults
    assert "a.PNG and" in str(fault) and "would share an image; rename one" in str(fault)


def test_a_suffix_that_was_not_named_is_guessed(tmp_path: Path) -> None:
    touch(tmp_path / "images/train", "1.jpg", "10.jpg")
    touch(tmp_path / "annotations/train", "10_label.png", "1_label.png")
    with pytest.raises(FileNotFoundError, match=r'1 may have .*/1_label\.png; if so, add --data\.mask_suffix "_label"'):
        match_files(tmp_path / "images/train", tmp_path / "annotations/train")


def test_a_nested_dataset_is_read(tmp_path: Path) -> None:
    for name in ("bonn/a", "bonn/b", "ulm/a"):
        for folder, mode, end in (("images", "RGB", "jpg"), ("annotations", "L", "PNG")):
            path = tmp_path / folder / "train" / f"{name}.{end}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new(mode, (4, 3)).save(path)
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    dataset = FolderDataset(tmp_path, "train")
    assert dataset.names == ["bonn/a", "bonn/b", "ulm/a"] and not dataset.remarks
    assert dataset[2].name == "ulm/a" and dataset[2].label.shape == (3, 4)
