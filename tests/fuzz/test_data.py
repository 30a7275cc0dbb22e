"""Pictures, folders and batches of any kind."""

from __future__ import annotations

import io
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz.files import damaged
from tests.fuzz.models import seeds
from tests.fuzz.outcomes import outcome
from trainers.data.augment import BatchAugmentation
from trainers.data.batch import IGNORE_INDEX, Sample, collate
from trainers.data.colors import ColorTable
from trainers.data.folder import FolderDataset
from trainers.data.reading import read_ids, read_image


@cache
def pictures() -> dict[str, bytes]:
    """Small pictures of the modes and formats that a folder may hold, whatever their names say."""
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    exif[0x010E] = "a description"
    kinds = {
        "jpeg": (rgb, "JPEG", {"exif": exif}),
        "progressive": (rgb, "JPEG", {"progressive": True, "comment": b"x"}),
        "cmyk": (rgb.convert("CMYK"), "JPEG", {}),
        "png": (rgb, "PNG", {"exif": exif}),
        "alpha": (rgb.convert("RGBA"), "PNG", {}),
        "grey": (rgb.convert("L"), "PNG", {}),
        "grey alpha": (rgb.convert("LA"), "PNG", {}),
        "palette": (rgb.convert("P"), "PNG", {"transparency": 3}),
        "bits": (rgb.convert("1"), "PNG", {}),
        "16 bit": (rgb.convert("I;16"), "PNG", {}),
        "ppm": (rgb, "PPM", {}),
        "gif": (rgb.convert("P"), "GIF", {}),
        "bmp": (rgb, "BMP", {}),
        "tiff": (rgb, "TIFF", {}),
        "lab": (Image.new("LAB", (7, 9)), "TIFF", {}),
        "float": (rgb.convert("F"), "TIFF", {}),
        "webp": (rgb, "WEBP", {}),
        "postscript": (rgb, "EPS", {}),
    }
    files = {}
    for kind, (image, form, options) in kinds.items():
        file = io.BytesIO()
        image.save(file, form, **options)
        files[kind] = file.getvalue()
    return files


any_picture = st.sampled_from(sorted(pictures())).flatmap(lambda kind: damaged(pictures()[kind]))
any_mask = st.sampled_from(("grey", "palette", "bits", "16 bit", "gif", "png", "jpeg", "tiff", "ppm")).flatmap(
    lambda kind: damaged(pictures()[kind])
)
any_colors = st.lists(st.tuples(*[st.integers(0, 255)] * 3), unique=True, min_size=1, max_size=3).map(
    lambda colors: ColorTable.of(colors, range(len(colors)), file="colors.txt")
)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(any_picture, st.sampled_from((".jpg", ".png")), st.booleans())
def test_images(scratch, content, suffix, as_stored) -> None:
    path = scratch / f"image{suffix}"
    path.write_bytes(content)
    with outcome(OSError, ValueError, valid=None):
        image = read_image(path, as_stored=as_stored)
        assert image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3 and image.numel()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(any_mask, st.none() | any_colors)
def test_masks(scratch, content, colors) -> None:
    path = scratch / "mask.png"
    path.write_bytes(content)
    with outcome(OSError, ValueError, valid=None):
        ids = read_ids(path, colors=colors)
        assert ids.dtype == np.int64 and ids.ndim == 2 and ids.size


lines = st.sampled_from(("sky", "road", "car")) | st.text(max_size=4)
class_files = st.lists(lines, max_size=4).map("\n".join).map(lambda text: text.encode("utf-8", "surrogatepass"))
whole_class_files = st.sampled_from(
    (b"sky\nroad\n", b"\xef\xbb\xbfsky\r\nroad", b"a\nb\nc\nd", b"0: a\n1: b", b"a 0 0 0\nb 9 9 9")
)


@given(st.data(), whole_class_files | class_files | st.binary(max_size=9), st.lists(st.integers(-2, 300), max_size=2))
def test_folders(scratch, data, classes, ignore_ids) -> None:
    root = scratch / "data"
    shutil.rmtree(root, ignore_errors=True)
    images, masks = (root / kind / "train" for kind in ("images", "annotations"))
    for folder in data.draw(st.sampled_from(((images, masks), (images, masks), (images, masks), (images,), (root,)))):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_bytes(classes)
    sides = st.integers(1, 5)
    for stem in data.draw(st.lists(st.sampled_from(("a", "b", "ä é")), max_size=3, unique=True)):
        size = data.draw(st.tuples(sides, sides))
        if images.is_dir():
            Image.new("RGB", size).save(images / (stem + data.draw(st.sampled_from((".png", ".JPG", ".txt")))), "PNG")
        if masks.is_dir() and data.draw(st.booleans() | st.just(True)):
            size = data.draw(st.just(size) | st.tuples(sides, sides))
            mode = data.draw(st.sampled_from(("L", "L", "P", "RGB", "I;16")))
            Image.new(mode, size, data.draw(st.integers(0, 3) | st.just(255))).save(masks / f"{stem}.png")
    with outcome(OSError, ValueError, valid=None):
        dataset = FolderDataset(root, "train", ignore_ids=ignore_ids)
        for index in range(len(dataset)):
            label = dataset[index].label
            assert ((label < len(dataset.class_names)) | (label == IGNORE_INDEX)).all() and label.min() >= 0


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    generator = torch.Generator().manual_seed(draw(seeds))
    size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    classes = draw(st.sampled_from((1, 2, 254)))
    label = torch.randint(0, classes, size, generator=generator)
    label[torch.rand(size, generator=generator) < draw(st.sampled_from((0.0, 0.5, 1.0)))] = IGNORE_INDEX
    return Sample(torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator), label, "sample")


@given(
    st.lists(samples(), min_size=1, max_size=3),
    st.tuples(st.integers(1, 33), st.integers(1, 33)),
    st.tuples(st.floats(0.02, 8), st.floats(0.02, 8)),
    st.sampled_from((0.0, 0.5, 1.0)),
    st.sampled_from((0.0, 0.7, 1.0)),
    st.sampled_from((0.01, 0.75, 1.0)),
    st.integers(0, 2**40),
)
def test_augmentation(drawn, crop_size, scales, flip, photometric, max_class_share, iteration) -> None:
    low, high = scales
    with outcome(ValueError, valid=low <= high):
        augment = BatchAugmentation(
            crop_size=crop_size,
            scale_range=scales,
            flip=flip,
            photometric=photometric,
            max_class_share=max_class_share,
            seed=3,
        )
        batch = collate(drawn).to("cpu")
        first, again = augment(batch, iteration), augment(batch, iteration)
        assert first.images.shape == (len(drawn), 3, *crop_size) and first.labels.shape == (len(drawn), *crop_size)
        assert first.images.isfinite().all() and first.images.min() >= 0 and first.images.max() <= 1
        assert torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)
        for sample, label in zip(drawn, first.labels, strict=True):
            assert set(label.unique().tolist()) <= {*sample.label.unique().tolist(), IGNORE_INDEX}
