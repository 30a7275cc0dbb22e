"""What a picture's file says of its samples is what is read: their depth, their order, and whether they are exact."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainers.raw_pictures import chunk, oriented, png, tiff
from trainers.data.reading import read_ids, read_image
from trainers.data.stored import Header, read_header

IDS = np.arange(35).reshape(5, 7)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_png_of_any_depth_gives_the_ids_that_are_in_it(tmp_path: Path, bits: int) -> None:
    ids = IDS * (1 if bits < 8 else 7) % 2 ** min(bits, 10)
    (tmp_path / "mask.png").write_bytes(png(ids, bits=bits))
    np.testing.assert_array_equal(read_ids(tmp_path / "mask.png"), ids)


@pytest.mark.parametrize(("bits", "photometric"), [(2, 1), (4, 1), (8, 1), (16, 1), (2, 0), (4, 0), (8, 0), (16, 0)])
def test_a_tiff_of_any_depth_gives_the_ids_that_are_in_it(tmp_path: Path, bits: int, photometric: int) -> None:
    ids = IDS * (1 if bits < 8 else 7) % 2 ** min(bits, 10)
    (tmp_path / "mask.tif").write_bytes(tiff(ids, bits=bits, photometric=photometric))
    np.testing.assert_array_equal(read_ids(tmp_path / "mask.tif"), ids)


@pytest.mark.parametrize("most", [2, 3, 20, 254, 255, 999, 65_535])
@pytest.mark.parametrize("plain", [False, True])
def test_a_pgm_gives_the_ids_that_are_in_it(tmp_path: Path, most: int, plain: bool) -> None:
    ids = np.linspace(0, most, 35).astype(np.int64).reshape(5, 7)
    numbers = " ".join(map(str, ids.ravel())).encode()
    samples = numbers if plain else ids.astype(np.uint8 if most < 256 else ">u2").tobytes()
    (tmp_path / "mask.pgm").write_bytes(f"P{2 if plain else 5}\n7 5\n{most}\n".encode() + samples)
    np.testing.assert_array_equal(read_ids(tmp_path / "mask.pgm"), ids)


def test_a_palette_of_any_depth_is_read_as_indices(tmp_path: Path) -> None:
    for count in (2, 4, 16, 200):
        ids = (IDS * 3 % count).astype(np.uint8)
        mask = Image.fromarray(ids)
        mask.putpalette([255 - value for value in range(count) for _ in range(3)])
        for name in ("mask.png", "mask.bmp", "mask.tif"):
            mask.save(tmp_path / name)
            np.testing.assert_array_equal(read_ids(tmp_path / name), ids)


def test_grey_of_four_bits_that_comes_out_wrong_is_refused(tmp_path: Path) -> None:
    mask = Image.fromarray((IDS % 16).astype(np.uint8))
    mask.putpalette([value for value in range(16) for _ in range(3)])
    file = io.BytesIO()
    mask.save(file, "BMP")
    head = bytearray(file.getvalue()[: 54 + 64])
    head[28:30], head[46:50], head[10:14] = b"\4\0", bytes(4), (54 + 64).to_bytes(4, "little")
    head[54:] = b"".join(bytes([value] * 3 + [0]) for value in range(16))
    (tmp_path / "mask.bmp").write_bytes(bytes(head) + bytes(4 * 5))
    with pytest.raises(OSError, match=r"mask\.bmp \(a grey BMP of less than 8 bits"):
        read_ids(tmp_path / "mask.bmp")


DEEP = (IDS[..., None] * 100 + np.arange(4) * 7) % 4096
"""12 bits in 16, as cameras write: Pillow keeps the upper 8, which are 0 to 15."""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("grey.png", png(DEEP[..., 0], bits=16)),
        ("grey_alpha.png", png(DEEP[..., :2], bits=16)),
        ("rgb.png", png(DEEP[..., :3], bits=16)),
        ("rgba.png", png(DEEP, bits=16)),
        ("grey.tif", tiff(DEEP[..., 0], bits=16)),
        ("rgb.tif", tiff(DEEP[..., :3], bits=16, photometric=2)),
        ("four_bands.tif", tiff(DEEP, bits=16, photometric=2)),
        ("rgb.ppm", b"P6\n7 5\n4095\n" + DEEP[..., :3].astype(">u2").tobytes()),
        ("grey.pgm", b"P5\n7 5\n4095\n" + DEEP[..., 0].astype(">u2").tobytes()),
    ],
)
def test_more_than_8_bits_a_channel_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"The image .*{name} has more than 8 bits a channel; convert it to 8-bit"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("channels", [3, 4])
def test_8_bits_a_channel_are_read(tmp_path: Path, channels: int) -> None:
    pixels = (DEEP % 256)[..., :channels]
    (tmp_path / "x.png").write_bytes(png(pixels, bits=8))
    (tmp_path / "x.tif").write_bytes(tiff(pixels, bits=8, photometric=2))
    for name in ("x.png", "x.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name).permute(1, 2, 0).numpy(), pixels[..., :3])


@pytest.mark.parametrize(("name", "form", "options"), [
    ("mask.png", "JPEG", {}),
    ("mask.jpg", "JPEG", {"quality": 100}),
    ("mask.tif", "TIFF", {"compression": "jpeg"}),
])  # fmt: skip
def test_masks_that_went_through_jpeg_are_refused(tmp_path: Path, name: str, form: str, options: dict) -> None:
    Image.fromarray(IDS.astype(np.uint8)).resize((70, 50), 0).save(tmp_path / name, form, **options)
    with pytest.raises(ValueError, match=rf"{name} holds a JPEG, whatever its name.*export the mask anew as PNG"):
        read_ids(tmp_path / name)


TURNED = np.array([[[1] * 3, [2] * 3, [3] * 3], [[4] * 3, [5] * 3, [6] * 3]], np.uint8)
BY_6 = [[4, 1], [5, 2], [6, 3]]  # a quarter turn clockwise


def test_pixels_are_turned_or_as_stored_in_every_format(tmp_path: Path) -> None:
    Image.fromarray(TURNED).save(tmp_path / "x.png", exif=oriented(6))
    Image.fromarray(TURNED).save(tmp_path / "x.webp", exif=oriented(6), lossless=True)
    (tmp_path / "x.tif").write_bytes(tiff(TURNED, bits=8, photometric=2, orientation=6))
    for path in tmp_path.iterdir():
        assert read_image(path)[0].tolist() == BY_6
        assert read_image(path, as_stored=True)[0].tolist() == TURNED[..., 0].tolist()
        assert read_header(path) == Header((2, 3), 6) and read_header(path).turned_size == (3, 2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_back_from_every_orientation(tmp_path: Path, orientation: int) -> None:
    (tmp_path / "x.tif").write_bytes(tiff(TURNED, bits=8, photometric=2, orientation=orientation))
    (tmp_path / "mask.tif").write_bytes(tiff(TURNED[..., 0], bits=8, orientation=orientation))
    Image.fromarray(TURNED).save(tmp_path / "x.png", exif=oriented(orientation))
    assert read_image(tmp_path / "x.tif", as_stored=True)[0].tolist() == TURNED[..., 0].tolist()
    assert read_image(tmp_path / "x.tif").tolist() == read_image(tmp_path / "x.png").tolist()
    assert read_ids(tmp_path / "mask.tif").tolist() == TURNED[..., 0].tolist()  # of masks, ids lie as they are stored


def test_the_head_is_read_without_the_pixels(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    for name, options in (("x.jpg", {}), ("x.png", {}), ("x.webp", {})):
        noise.save(tmp_path / name, exif=oriented(8), **options)
        whole = (tmp_path / name).read_bytes()
        if name != "x.webp":  # whose EXIF lies behind the pixels
            (tmp_path / name).write_bytes(whole[: len(whole) // 3])
            with pytest.raises(OSError, match="Cannot read"):
                read_image(tmp_path / name)
        assert read_header(tmp_path / name) == Header((40, 60), 8)


def test_orientation_behind_the_pixels_of_a_png_is_seen(tmp_path: Path) -> None:
    exif = oriented(6).tobytes().removeprefix(b"Exif\0\0")
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    for behind in (chunk(b"eXIf", exif), chunk(b"iTXt", xmp)):
        (tmp_path / "x.png").write_bytes(png(TURNED, bits=8, behind=[chunk(b"tEXt", b"date\0today"), behind]))
        assert read_image(tmp_path / "x.png")[0].tolist() == BY_6
        assert read_header(tmp_path / "x.png") == Header((2, 3), 6)
    (tmp_path / "x.png").write_bytes(png(TURNED, bits=8, behind=[chunk(b"tEXt", b"date\0today")]))
    assert read_header(tmp_path / "x.png") == Header((2, 3), 1)
