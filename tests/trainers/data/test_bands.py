from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from trainers.data.batch import Sample, collate, unit_values
from trainers.data.reader import PICTURES, ImageReader
from trainers.data.reading import read_ids, read_image

DTYPES = ("uint8", "uint16", "float32")


def bands(count: int, dtype: str, *, height: int = 5, width: int = 7) -> np.ndarray[Any, Any]:
    """(C,H,W) values of which no two are alike; those of float32 are below 0, too."""
    values = np.arange(count * height * width).reshape(count, height, width)
    return {"uint8": values % 256, "uint16": values * 97, "float32": values / 8 - 9}[dtype].astype(dtype)


def read(path: Path, channels: int | None) -> np.ndarray[Any, Any]:
    return ImageReader(channels)(path).numpy()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "deflate", "lzw"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 3, 4, 6])
def test_tiffs_of_every_layout_give_the_bands_that_they_hold(
    tmp_path: Path, count: int, dtype: str, compression: Any, byteorder: Any
) -> None:
    expected = bands(count, dtype)
    options: dict[str, Any] = {"photometric": "minisblack", "compression": compression}
    last = np.ascontiguousarray(np.moveaxis(expected, 0, -1))
    layouts = {
        "planar": (expected, options | {"planarconfig": "separate"}),
        "chunky": (last, options | {"planarconfig": "contig"}),
        "tiled": (last, options | {"planarconfig": "contig", "tile": (16, 16)}),
        "pages": (expected, options),
    }
    if count == 1:
        layouts = {"single": (expected[0], options)}
    for name, (array, writing) in layouts.items():
        path = tmp_path / f"{name}.tif"
        with tifffile.TiffWriter(path, byteorder=byteorder) as file:
            file.write(array, **writing)
        result = read(path, count)
        assert result.dtype == expected.dtype and result.dtype.isnative, name
        np.testing.assert_array_equal(result, expected, err_msg=name)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [*DTYPES, ">u2", ">f4"])
@pytest.mark.parametrize("count", [1, 4, 12])
def test_arrays_have_their_bands_on_the_first_or_the_last_side(tmp_path: Path, count: int, dtype: str) -> None:
    path, expected = tmp_path / "image.npy", bands(count, np.dtype(dtype).newbyteorder("=").name)
    for array in (expected, np.moveaxis(expected, 0, -1), np.asfortranarray(expected), *expected[: count == 1]):
        np.save(path, array.astype(dtype))
        result = read(path, count)
        assert result.dtype == expected.dtype and result.dtype.isnative
        np.testing.assert_array_equal(result, expected)


def test_a_file_that_is_not_compressed_is_read_where_it_is_looked_at(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", bands(4, "uint16"))
    tifffile.imwrite(tmp_path / "a.tif", bands(4, "uint16"), photometric="minisblack", planarconfig="separate")
    for name in ("a.npy", "a.tif"):
        image = ImageReader(4)(tmp_path / name)
        content = bytearray((tmp_path / name).read_bytes())
        content[-2:] = b"\x01\x02"  # the last value
        with (tmp_path / name).open("r+b") as file:
            file.write(content)
        assert image[-1, -1, -1] == 0x0201
        image[0, 0, 0] = 7  # which stays in memory
        assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("channels", [1, 4])
def test_a_side_that_may_be_either_is_refused(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "image.npy"
    np.save(path, np.zeros((channels, 6, channels), np.uint8))
    with pytest.raises(ValueError, match=r"image\.npy is an array of shape .* may be either of .*TIFF"):
        read(path, channels)
    for shape in ((5, 6, 7), (6, 7, 2, 3), (7,)):
        np.save(path, np.zeros(shape, np.uint8))
        with pytest.raises(ValueError, match=r"image\.npy is an array of shape .* is neither of"):
            read(path, channels)


def test_other_numbers_of_bands_are_refused_and_never_cut(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    for count in (2, 4, 6):
        for options in ({"planarconfig": "separate"}, {}):  # samples, and pages
            tifffile.imwrite(path, bands(count, "uint8"), photometric="minisblack", **options)
            with pytest.raises(ValueError, match=rf"image\.tif has {count} bands; train with --data\.channels"):
                PICTURES(path)
            with pytest.raises(ValueError, match=rf"has {count} bands, but --data\.channels is 3; "):
                read(path, 3)
    Image.new("RGBA", (3, 2)).save(path)  # a fourth band that many programs call alpha
    with pytest.raises(ValueError, match=r"has 4 bands; train with"):
        PICTURES(path)
    path.rename(tmp_path / "image.png")  # whatever its name
    with pytest.raises(ValueError, match=r"has 4 bands; train with"):
        PICTURES(tmp_path / "image.png")
    np.save(tmp_path / "flat.npy", np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match=r"flat\.npy has 1 bands, but --data\.channels is 4"):
        read(tmp_path / "flat.npy", 4)


def test_pictures_of_three_bands_are_read_as_ever(tmp_path: Path) -> None:
    picture = Image.fromarray(np.moveaxis(bands(3, "uint8"), 0, -1))
    for name, mode in (("a.png", "RGB"), ("a.jpg", "RGB"), ("b.png", "RGBA"), ("c.png", "P"), ("d.webp", "RGBA"),
                       ("e.tif", "RGB"), ("f.tif", "L"), ("g.tif", "CMYK"), ("h.tif", "P")):  # fmt: skip
        picture.convert(mode).save(tmp_path / name)
        expected = read_image(tmp_path / name)
        assert torch.equal(PICTURES(tmp_path / name), expected)
        if not name.endswith("tif") or mode == "RGB":
            assert torch.equal(ImageReader(3)(tmp_path / name), expected)
    with pytest.raises(ValueError, match=r"h\.tif holds indices of a palette"):
        read(tmp_path / "h.tif", 1)


def test_bands_that_are_stored_turned_are_refused(tmp_path: Path) -> None:
    tag = (274, "H", 1, 6, False)  # the orientation, to be turned
    tifffile.imwrite(tmp_path / "a.tif", bands(4, "uint8"), photometric="minisblack", extratags=[tag])
    with pytest.raises(ValueError, match=r"a\.tif is to be turned to be seen; save it upright"):
        read(tmp_path / "a.tif", 4)


def test_grey_pictures_are_one_band_and_coloured_ones_are_refused(tmp_path: Path) -> None:
    grey = bands(1, "uint8")
    for mode in ("L", "LA"):
        Image.fromarray(grey[0]).convert(mode).save(tmp_path / "a.png")
        assert (read(tmp_path / "a.png", 1) == grey).all()
    deep = bands(1, "uint16")
    Image.fromarray(deep[0]).save(tmp_path / "b.png")
    assert read(tmp_path / "b.png", 1).dtype == np.uint16 and (read(tmp_path / "b.png", 1) == deep).all()
    Image.fromarray(grey[0] > 9).save(tmp_path / "c.png")
    assert (read(tmp_path / "c.png", 1) == (grey > 9) * 255).all()
    for mode, name in (("RGB", "d.png"), ("P", "d.png"), ("RGBA", "d.png"), ("CMYK", "d.jpg")):
        Image.fromarray(grey[0]).convert("RGB").convert(mode).save(tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name} holds {mode} colours, but .* is 1; save it as grey"):
            read(tmp_path / name, 1)
    Image.fromarray(np.moveaxis(bands(4, "uint8"), 0, -1)).save(tmp_path / "e.png")
    assert (read(tmp_path / "e.png", 4) == bands(4, "uint8")).all()
    deep_grey = np.stack([deep[0], np.full_like(deep[0], 65535)], -1)
    (tmp_path / "f.png").write_bytes(imagecodecs.png_encode(deep_grey))  # of which Pillow leaves 8 bits
    with pytest.raises(ValueError, match=r"f\.png has more than 8 bits a channel"):
        read(tmp_path / "f.png", 1)
    with pytest.raises(ValueError, match=r"e\.png holds RGBA colours, but .* 6; save it as TIFF or \.npy with 6 bands"):
        read(tmp_path / "e.png", 6)


@pytest.mark.parametrize("dtype", ["float64", "int16", "int32", "bool", "float16"])
def test_values_of_other_types_are_refused(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 3, 5), dtype))
    with pytest.raises(ValueError, match=rf"a\.npy holds values of {dtype}; save as uint8, uint16, float32"):
        read(tmp_path / "a.npy", 4)
    if dtype in ("float64", "int16"):
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 3, 5), dtype), photometric="minisblack")
        with pytest.raises(ValueError, match=rf"a\.tif holds values of {dtype};"):
            read(tmp_path / "a.tif", 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_by_its_file(tmp_path: Path, value: float) -> None:
    image = bands(4, "float32")
    image[2, 3, 4] = value
    np.save(tmp_path / "a.npy", image)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", compression="deflate")
    for name in ("a.npy", "a.tif"):
        with pytest.raises(ValueError, match=rf"{name} holds values that are NaN or infinite; .* label 255"):
            read(tmp_path / name, 4)


def test_files_that_are_missing_or_broken_are_named(tmp_path: Path) -> None:
    for name in ("a.npy", "a.tif", "a.png"):
        with pytest.raises(FileNotFoundError, match=rf"The image .*{name} does not exist"):
            read(tmp_path / name, 4)
    np.save(tmp_path / "a.npy", bands(4, "float32"))
    tifffile.imwrite(tmp_path / "a.tif", bands(4, "float32"), photometric="minisblack", compression="deflate")
    for name in ("a.npy", "a.tif"):
        whole = (tmp_path / name).read_bytes()
        for broken in (whole[:-3], whole[:20], whole[:4], b"", b"PK\3\4" + whole):
            (tmp_path / name).write_bytes(broken)
            with pytest.raises(OSError, match=rf"Cannot read the image .*{name} \("):
                read(tmp_path / name, 4)


def test_no_array_runs_a_program(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[{"a": 1}]], dtype=object))
    with pytest.raises(OSError, match=r"Cannot read the image .*a\.npy"):
        read(tmp_path / "a.npy", 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["a.tif", "a.npy"])
def test_damaged_files_are_read_or_named(tmp_path: Path, name: str) -> None:
    rng, path = np.random.default_rng(0), tmp_path / name
    np.save(tmp_path / "a.npy", bands(4, "uint16"))
    tifffile.imwrite(tmp_path / "a.tif", bands(4, "uint16"), photometric="minisblack", compression="deflate")
    whole, refusals = path.read_bytes(), []
    for _ in range(150):
        damaged = bytearray(whole[: rng.integers(len(whole) // 2, len(whole) + 1)])
        for place in rng.integers(min(len(damaged), 300), size=2):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert read(path, 4).shape[0] == 4
        except (OSError, ValueError) as error:
            refusals.append(str(error))
    assert len(refusals) > 20 and all(str(path) in refusal for refusal in refusals)


class TestPixels:
    """The limit of pixels."""

    @pytest.fixture
    def limit(self, monkeypatch: pytest.MonkeyPatch) -> int:
        """Pillow refuses what has twice as many pixels, and warns of what has more."""
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        return 100

    @pytest.mark.filterwarnings("error")
    def test_an_image_above_it_is_refused_with_the_remedy(self, tmp_path: Path, limit: int) -> None:
        Image.new("RGB", (10, 20)).save(tmp_path / "a.png")
        Image.new("RGB", (10, 21)).save(tmp_path / "b.png")
        assert PICTURES(tmp_path / "a.png").shape == (3, 20, 10)
        refusal = r"b\.png has 10x21 = 210 pixels, above the limit of 200; .*--data\.max_pixels .*--eval\.mode slide"
        with pytest.raises(ValueError, match=refusal) as error:
            PICTURES(tmp_path / "b.png")
        assert "replace or remove" not in str(error.value) and "tiles" in str(error.value)
        with pytest.raises(ValueError, match=refusal):
            read_ids(tmp_path / "b.png")
        assert ImageReader(max_pixels=210)(tmp_path / "b.png").shape == (3, 21, 10)
        Image.new("L", (10, 21)).save(tmp_path / "c.png")
        assert read_ids(tmp_path / "c.png", max_pixels=210).shape == (21, 10)
        assert limit == Image.MAX_IMAGE_PIXELS
        with pytest.raises(ValueError, match=r"above the limit of 199"):
            ImageReader(max_pixels=199)(tmp_path / "a.png")

    def test_pillow_keeps_its_limit_for_others_also_after_an_error(self, tmp_path: Path, limit: int) -> None:
        (tmp_path / "a.png").write_bytes(b"no picture")
        with pytest.raises(OSError, match="Cannot read"):
            PICTURES(tmp_path / "a.png")
        assert limit == Image.MAX_IMAGE_PIXELS
        Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
        with pytest.raises(Image.DecompressionBombError):
            Image.open(tmp_path / "a.png")

    def test_it_holds_for_bands_before_they_are_decoded(self, tmp_path: Path, limit: int) -> None:
        np.save(tmp_path / "a.npy", np.zeros((4, 10, 21), np.uint8))
        tifffile.imwrite(
            tmp_path / "a.tif", np.zeros((4, 10, 21), np.uint8), photometric="minisblack", compression="deflate"
        )
        content = bytearray((tmp_path / "a.tif").read_bytes())
        content[-30:] = bytes(30)
        (tmp_path / "a.tif").write_bytes(content)
        for name in ("a.npy", "a.tif"):
            with pytest.raises(ValueError, match=rf"{name} has 21x10 = 210 pixels, above the limit of 200"):
                read(tmp_path / name, 4)
        assert ImageReader(4, max_pixels=210)(tmp_path / "a.npy").shape == (4, 10, 21)

    @pytest.mark.filterwarnings("error")
    def test_the_size_that_pillow_refuses_by_itself_is_refused_without_its_pixels(self, tmp_path: Path) -> None:
        file = io.BytesIO()
        Image.new("L", (1, 1)).save(file, "PNG")
        content = bytearray(file.getvalue())
        content[16:24] = (15_000).to_bytes(4, "big") * 2
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"15000x15000 = 225000000 pixels, above the limit of 178956970"):
            PICTURES(tmp_path / "a.png")


def test_values_are_divided_by_what_their_type_can_hold() -> None:
    values = {
        torch.uint8: torch.tensor([0, 51, 255], dtype=torch.uint8),
        torch.uint16: torch.tensor([0, 13107, 65535], dtype=torch.int32).to(torch.uint16),
        torch.float32: torch.tensor([0.0, 0.2, 1.0]),
    }
    for stored in values.values():
        torch.testing.assert_close(unit_values(stored), torch.tensor([0.0, 0.2, 1.0]))
    own_unit = torch.tensor([-40.0, 273.15])
    assert unit_values(own_unit) is own_unit
    samples = [
        Sample(stored.view(1, 1, 3).expand(4, 1, 3), torch.zeros(1, 3, dtype=torch.int64), "a")
        for stored in values.values()
    ]
    batch = collate(samples)
    assert batch.images.shape == (3, 4, 1, 3) and batch.dtypes == tuple(values)
    torch.testing.assert_close(batch.images, torch.tensor([0.0, 0.2, 1.0]).expand(3, 4, 1, 3))


def test_8_bits_become_the_numbers_that_they_always_were() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, 16, 16)
    batch = collate([Sample(values, torch.zeros(16, 16, dtype=torch.int64), "a")], size=(20, 20))
    expected = torch.zeros(1, 3, 20, 20)
    expected[0, :, :16, :16] = values
    assert torch.equal(batch.to("cpu").images, expected.div_(255))
    assert torch.equal(unit_values(values), values / 255)
