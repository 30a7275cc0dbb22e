"""A folder of images and masks with every fault that users' data sets have shown, all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.trainers.raw_pictures import oriented, png, tiff

HEIGHT, WIDTH = 48, 64
COLORS = {"background": (0, 0, 0), "crack": (250, 50, 83), "rust": (0, 120, 255)}


class FaultyFolder:
    """Writes the folder; each of its files is called by what is wrong with it.

    Args:
        root: where to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images, self.masks = root / "images/train", root / "annotations/train"
        for folder in ("images/train/city", "annotations/train/city", "images/val", "annotations/val"):
            (root / folder).mkdir(parents=True)
        (root / "classes.txt").write_text("# the classes\nbackground\ncrack\nrust\n")
        lines = [f"{name} {red} {green} {blue}\n" for name, (red, green, blue) in COLORS.items()]
        (root / "colors.txt").write_text("".join([*lines, "sky 9 9 9\n"]))
        self._written = 0
        self._write_good()
        self._write_what_is_to_be_known()
        self._write_bad()

    def _write_good(self) -> None:
        for name in ("bitmap.bmp", "tiff.TIF", "webp.webp", "city/nested.jpg", "capitals.jpg"):
            self.write(name)
        (self.masks / "capitals.png").rename(self.masks / "capitals.PNG")
        self.write("colours.png", mask=Image.fromarray(in_colors(ids())))
        self.write("palette.png", mask=Image.fromarray(in_colors(ids())).quantize(3))
        self.write("two_bits.png")
        (self.masks / "two_bits.png").write_bytes(png(ids(), bits=2))

    def _write_what_is_to_be_known(self) -> None:
        self.write("headstand.jpg", exif=oriented(3))
        square = Image.fromarray(scene(90)[:, :HEIGHT])
        self.write("square.jpg", square, Image.fromarray(ids()[:, :HEIGHT]), exif=oriented(6))
        for name in ("photo.heic", "notes.txt", "city/Thumbs.db", ".hidden.png"):
            (self.images / name).write_bytes(b"x")
        for name in ("spare1", "spare2"):
            Image.fromarray(ids()).save(self.masks / f"{name}.png")
        for name in ("good", "twin_of_bitmap"):
            Image.fromarray(scene(1 if name == "twin_of_bitmap" else 91)).save(self.root / f"images/val/{name}.png")
            Image.fromarray(ids()).save(self.root / f"annotations/val/{name}.png")

    def _write_bad(self) -> None:
        for name in ("maskless.png", "same_name.jpg", "same_name.png", "broken.png"):
            self.write(name)
        for name in ("deep.png", "deep_tiff.tif", "four_bands.tif"):
            self.write(name)
        (self.masks / "maskless.png").unlink()
        (self.images / "broken.png").write_bytes(b"")
        deep = np.arange(HEIGHT * WIDTH * 4).reshape(HEIGHT, WIDTH, 4) % 4096
        (self.images / "deep.png").write_bytes(png(deep[..., :3], bits=16))
        (self.images / "deep_tiff.tif").write_bytes(tiff(deep[..., :3], bits=16, photometric=2))
        (self.images / "four_bands.tif").write_bytes(tiff(deep, bits=16, photometric=2))
        for number in range(5):
            self.write(f"jpeg{number}.png")
            Image.fromarray(ids(crack=100)).save(self.masks / f"jpeg{number}.png", "JPEG")
        self.write("ids.png", mask=Image.fromarray(ids(crack=7)))
        other_colours = in_colors(ids())
        other_colours[:2, :3] = (1, 2, 3)
        self.write("other_colours.png", mask=Image.fromarray(other_colours))
        self.write("grey.png", mask=Image.new("L", (WIDTH, HEIGHT), 9))
        self.write("small_mask.png", mask=Image.fromarray(ids()[:, :40]))

    def write(
        self, name: str, image: Image.Image | None = None, mask: Image.Image | None = None, **options: Any
    ) -> None:
        """Writes an image, by default another each time, and its mask."""
        self._written += 1
        (image or Image.fromarray(scene(self._written))).save(self.images / name, **options)
        (mask or Image.fromarray(ids())).save((self.masks / name).with_suffix(".png"))


def scene(seed: int) -> NDArray[np.uint8]:
    """An image (H,W,3), another for each seed."""
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def ids(*, crack: int = 1) -> NDArray[np.uint8]:
    """A mask (H,W) of background with a block of ``crack``."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[12:24, 16:32] = crack
    return mask


def in_colors(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mask of ids 0 to 2 in colours (H,W,3)."""
    return np.array(list(COLORS.values()), np.uint8)[mask]
