from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainers.raw_pictures import oriented
from trainers.data.folder import FolderDataset

SIDES = {"wide": (6, 9), "square": (8, 8)}


def write_pair(root: Path, name: str, orientation: int, drawn_on: str, shape: str = "wide") -> None:
    """An image with an orientation, and a mask as it was drawn on the stored or on the turned pixels."""
    split, _, stem = name.partition("/")
    image = Image.fromarray(np.random.default_rng(orientation).integers(0, 256, (*SIDES[shape], 3), np.uint8))
    for folder in ("images", "annotations"):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("sky\nroad\n")
    image.save(root / "images" / split / f"{stem}.png", exif=oriented(orientation))
    swapped = orientation >= 5 and drawn_on == "turned"
    size = image.size[::-1] if swapped else image.size
    Image.new("L", size).save(root / "annotations" / split / f"{stem}.png")


def stays(root: Path, split: str = "train") -> dict[str, bool]:
    """Whether each image of a split is read as it is stored."""
    dataset = FolderDataset(root, split)
    read = {}
    for index, pair in enumerate(dataset.pairs):
        stored = np.array(Image.open(pair.image))
        image = dataset[index].image.permute(1, 2, 0).numpy()
        read[pair.name] = image.shape == stored.shape and bool((image == stored).all())
    return read


@pytest.mark.parametrize("drawn_on", ["stored", "turned"])
def test_files_whose_sizes_tell_decide_for_all(tmp_path: Path, drawn_on: str) -> None:
    write_pair(tmp_path, "train/a", 3, drawn_on)
    write_pair(tmp_path, "train/b", 6, drawn_on, "square")
    write_pair(tmp_path, "train/c", 8, drawn_on)
    write_pair(tmp_path, "train/d", 1, drawn_on)
    on_stored = drawn_on == "stored"
    assert stays(tmp_path) == {"a": on_stored, "b": on_stored, "c": on_stored, "d": True}
    assert not FolderDataset(tmp_path, "train").remarks


def test_one_split_tells_of_another(tmp_path: Path) -> None:
    write_pair(tmp_path, "val/a", 3, "stored")
    write_pair(tmp_path, "val/b", 5, "stored", "square")
    assert stays(tmp_path, "val") == {"a": False, "b": False}
    write_pair(tmp_path, "train/tall", 6, "stored")
    assert stays(tmp_path, "val") == {"a": True, "b": True}
    assert not FolderDataset(tmp_path, "val").remarks


def test_where_nothing_tells_the_files_are_named(tmp_path: Path) -> None:
    write_pair(tmp_path, "train/a", 3, "stored")
    write_pair(tmp_path, "train/b", 8, "stored", "square")
    write_pair(tmp_path, "train/c", 1, "stored")
    assert stays(tmp_path) == {"a": False, "b": False, "c": True}
    remarks = FolderDataset(tmp_path, "train").remarks
    assert [Path(remark.path).name for remark in remarks] == ["a.png", "b.png"]
    assert str(remarks[0]) == (
        f"The image {tmp_path}/images/train/a.png is turned as its EXIF orientation says; sizes of files do not tell "
        "whether the masks were drawn on the turned pixels: look at one, and if not, save the images anew without EXIF "
        "orientation."
    )


def test_where_one_thing_tells_here_and_another_there_each_is_read_right(tmp_path: Path) -> None:
    write_pair(tmp_path, "train/a", 6, "stored")
    write_pair(tmp_path, "train/b", 6, "turned")
    assert stays(tmp_path) == {"a": True, "b": False} and not FolderDataset(tmp_path, "train").remarks
    write_pair(tmp_path, "train/c", 3, "stored")
    assert stays(tmp_path) == {"a": True, "b": False, "c": False}
    assert [Path(remark.path).name for remark in FolderDataset(tmp_path, "train").remarks] == ["c.png"]


def test_files_that_cannot_be_read_tell_nothing(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_pair(tmp_path, f"train/{name}", 6, "stored")
    (tmp_path / "images/train/a.png").write_bytes(b"")
    (tmp_path / "annotations/train/b.png").write_bytes(b"")
    (tmp_path / "annotations/train/c.png").unlink()
    dataset = FolderDataset(tmp_path, "train")
    assert not dataset.remarks and not any(pair.as_stored for pair in dataset.pairs)
