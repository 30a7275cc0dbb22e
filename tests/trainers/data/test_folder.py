from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainers.data.folder import FolderDataset
from trainers.data.reading import read_image

CAMVID = Path(os.environ.get("MTACLIP_DATA", "no-data")) / "camvid"
IDS = np.array([[0, 1, 2], [2, 1, 255]], np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images of 2x3 pixels, three classes."""
    for folder in ("images/train", "annotations/train"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("ground\nred circle\nblue square\n")
    for name, suffix in (("b", "jpg"), ("a", "PNG")):
        Image.new("RGB", (3, 2), (10, 200, 30)).save(tmp_path / f"images/train/{name}.{suffix}")
        Image.fromarray(IDS).save(tmp_path / f"annotations/train/{name}.png")
    return tmp_path


def test_samples_come_sorted_with_their_ids(root: Path) -> None:
    dataset = FolderDataset(root, "train")
    assert dataset.class_names == ["ground", "red circle", "blue square"]
    assert dataset.names == ["a", "b"] and len(dataset) == 2
    sample = dataset[0]
    assert sample.name == "a"
    assert sample.image.dtype == torch.uint8 and sample.label.dtype == torch.int64
    assert sample.image.shape == (3, 2, 3) and sample.image[:, 0, 0].tolist() == [10, 200, 30]
    assert sample.label.tolist() == IDS.tolist()


def test_palette_mask_is_read_as_indices(root: Path) -> None:
    mask = Image.fromarray(IDS)
    mask.putpalette([255 - value for value in range(256) for _ in range(3)])
    mask.save(root / "annotations/train/a.png")
    assert Image.open(root / "annotations/train/a.png").mode == "P"
    assert FolderDataset(root, "train")[0].label.tolist() == IDS.tolist()


def test_sixteen_bit_mask_is_read_as_ids(root: Path) -> None:
    Image.fromarray(IDS.astype(np.uint16)).save(root / "annotations/train/a.png")
    assert FolderDataset(root, "train")[0].label.tolist() == IDS.tolist()


def test_ignored_ids_become_255(root: Path) -> None:
    label = FolderDataset(root, "train", ignore_ids=(2,))[0].label
    assert label.tolist() == [[0, 1, 255], [255, 1, 255]]


def test_exif_orientation_turns_the_image(root: Path) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16, 0] = 255  # the left half is red
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: left becomes top
    path = root / "turned.jpg"
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    image = read_image(path)
    assert image.shape == (3, 32, 16)
    assert image[0, :14].float().mean() > 240 and image[0, 18:].float().mean() < 15


def test_an_image_whose_mask_fits_its_stored_pixels_stays_as_stored(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = root / "images/train/b.jpg"
    Image.new("RGB", (3, 2)).save(path, exif=exif)
    assert read_image(path).shape == (3, 3, 2)
    assert FolderDataset(root, "train")[1].image.shape == (3, 2, 3)
    Image.fromarray(IDS.T.copy()).save(root / "annotations/train/b.png")
    assert FolderDataset(root, "train")[1].image.shape == (3, 3, 2)


def test_any_8_bit_picture_becomes_rgb(tmp_path: Path) -> None:
    grey = Image.new("RGB", (5, 4), (90, 90, 90))
    for picture in (grey.convert("L"), grey.convert("RGBA"), grey.convert("CMYK"), grey.quantize(2)):
        picture.save(tmp_path / "x.tiff")
        image = read_image(tmp_path / "x.tiff")
        assert image.shape == (3, 4, 5) and image.unique().tolist() == [90]


def test_alpha_hides_no_colour(tmp_path: Path) -> None:
    Image.new("RGBA", (3, 2), (10, 200, 30, 0)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png")[:, 0, 0].tolist() == [10, 200, 30]
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.save(tmp_path / "y.png", transparency=1)
    assert read_image(tmp_path / "y.png")[:, 0, 0].tolist() == [10, 200, 30]


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_damaged_files_are_read_or_named(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(rng.integers(0, 255, (16, 24, 3), np.uint8)).save(path, exif=exif)
    whole, refusals = path.read_bytes(), []
    for _ in range(200):
        damaged = bytearray(whole[: rng.integers(len(whole) // 2, len(whole) + 1)])
        for place in rng.integers(len(damaged), size=3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert read_image(path).shape[0] == 3
        except OSError as error:
            refusals.append(str(error))
    assert len(refusals) > 20 and all(str(path) in refusal for refusal in refusals)


def test_mask_without_image_is_left_aside(root: Path) -> None:
    Image.fromarray(IDS).save(root / "annotations/train/c.png")
    assert FolderDataset(root, "train").names == ["a", "b"]


def test_missing_parts_say_where_they_were_expected(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; set --data\.root"):
        FolderDataset(root / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match=r"images/val does not exist"):
        FolderDataset(root, "val")
    (root / "annotations/train/b.png").unlink()
    dataset = FolderDataset(root, "train")
    assert dataset[0].name == "a"
    with pytest.raises(FileNotFoundError, match=r"b\.jpg has no mask: .*annotations/train/b\.png"):
        dataset[1]
    (root / "annotations/train/a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"None of the 2 images has a mask: .*annotations/train/a\.png"):
        FolderDataset(root, "train")
    (root / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"classes\.txt is missing"):
        FolderDataset(root, "train")


def test_another_layout_is_told_with_what_is_there(root: Path) -> None:
    expected = r"expected are classes\.txt, images/val/NAME\.jpg and annotations/val/NAME\.png in .*"
    with pytest.raises(FileNotFoundError, match=rf"{expected}, whose folder images holds train/; --data\.train_split"):
        FolderDataset(root, "val")
    (root / "classes.txt").rename(root / "labels.txt")
    with pytest.raises(FileNotFoundError, match=rf"{expected}, which holds annotations/, images/, labels\.txt\."):
        FolderDataset(root, "val")
    (root / "labels.txt").rename(root / "classes.txt")
    (root / "images").rename(root / "photos")
    with pytest.raises(
        FileNotFoundError, match=r"images does not exist: .*which holds annotations/, classes\.txt, pho"
    ):
        FolderDataset(root, "val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a\n\nb\n", "empty line"),
        ("a\nb\na\n", "names a more than once"),
        ("\n".join(map(str, range(256))), "names 256 classes"),
    ],
)
def test_class_names_must_be_a_list_of_names(root: Path, text: str, message: str) -> None:
    (root / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        FolderDataset(root, "train")


def test_split_without_images_and_images_of_one_name_are_refused(root: Path) -> None:
    (root / "images/empty").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        FolderDataset(root, "empty")
    Image.new("RGB", (3, 2)).save(root / "images/train/a.jpg")
    with pytest.raises(ValueError, match="would share a mask"):
        FolderDataset(root, "train")


def test_unreadable_images_are_named(root: Path) -> None:
    path = root / "images/train/a.PNG"
    content = path.read_bytes()
    for broken in (b"", b"no image at all", content[: len(content) // 2]):
        path.write_bytes(broken)
        with pytest.raises(OSError, match=r"Cannot read the image .*a\.PNG"):
            FolderDataset(root, "train")[0]
    with pytest.raises(FileNotFoundError, match=r"none\.jpg does not exist"):
        read_image(root / "none.jpg")


def test_truncated_jpeg_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(OSError, match=r"Cannot read the image .*x\.jpg \(.*truncated"):
        read_image(path)


def test_sixteen_bit_image_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        read_image(tmp_path / "x.png")


def test_bad_masks_are_named(root: Path) -> None:
    path = root / "annotations/train/a.png"
    dataset = FolderDataset(root, "train")
    Image.fromarray(IDS.T.copy()).save(path)
    with pytest.raises(ValueError, match=r"a\.png is 2x3 pixels but its image is 3x2"):
        dataset[0]
    Image.fromarray(IDS).convert("RGB").save(path)
    with pytest.raises(ValueError, match=r"a\.png holds RGB colours"):
        dataset[0]
    Image.fromarray(np.array([[0, 7, 2], [3, 1, 0]], np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"a\.png has the ids \[3, 7\].* K=3 .*--data\.ignore_ids"):
        dataset[0]
    assert FolderDataset(root, "train", ignore_ids=(3, 7))[0].label[0].tolist() == [0, 255, 2]
    Image.fromarray(np.arange(50_000, 50_006, dtype=np.uint16).reshape(2, 3)).save(path)
    with pytest.raises(ValueError, match=r"a\.png has the ids \[50000, 50001, .*50005\]"):
        dataset[0]
    Image.fromarray(np.arange(20, 52, dtype=np.uint8).reshape(2, 16)).save(path)
    Image.new("RGB", (16, 2)).save(root / "images/train/a.PNG")
    with pytest.raises(ValueError, match=r"has the ids \[20, .*, 29, \.\.\.\]; classes"):
        dataset[0]
    Image.fromarray(IDS).convert("RGBA").save(path)
    with pytest.raises(ValueError, match=r"a\.png holds RGBA colours"):
        dataset[0]


@pytest.mark.skipif(not CAMVID.is_dir(), reason="MTACLIP_DATA names no folder with camvid in it")
def test_camvid() -> None:
    dataset = FolderDataset(CAMVID, "val", ignore_ids=(11,))
    assert len(dataset) == 101 and len(dataset.class_names) == 11
    sample = dataset[0]
    assert sample.image.shape == (3, 360, 480)
    assert set(sample.label.unique().tolist()) <= {*range(11), 255}
