"""Runs on images of four bands, from their first reading to their last picture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from tests.trainers.tiny_runs import MTACLIP, failure
from trainers import check_data, evaluate, predict, train
from trainers.assemble import create_forward, forward, restore_model
from trainers.data.reader import ImageReader
from trainers.models import build_model
from trainers.report.pictures import visible
from trainers.run.checkpoints import load_checkpoint

TINY = [
    "--data.dataset=folder",
    "--data.crop_size=[32,32]",
    "--optim.warmup_iterations=1",
    "--train.iterations=4",
    "--train.batch_size=2",
    "--train.validate_every=2",
    "--train.overlays=1",
    "--train.device=cpu",
    "--train.precision=float32",
    "--model.encoder_name=resnet18",
    "--model.encoder_weights=null",
]


def scene(index: int, dtype: str, channels: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """An image (C,H,W) with two classes, and its labels; float32 is in a unit far from [0, 1]."""
    rng = np.random.default_rng(index)
    label = np.zeros((36 + index, 44), np.uint8)
    label[:, 20 + index :] = 1
    label[:3] = 255
    values = rng.uniform(0.1, 0.4, (channels, *label.shape)) + 0.4 * (label == 1)
    scale = {"uint8": 255, "uint16": 65535, "float32": 40}[dtype]
    return (values * scale + (270 if dtype == "float32" else 0)).astype(dtype), label


def write_data(root: Path, dtype: str, channels: int = 4) -> Path:
    """Four training and two validation images, in TIFFs of both layouts and in an array."""
    for split, indices in (("train", range(4)), ("val", range(4, 6))):
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True)
        for index in indices:
            image, label = scene(index, dtype, channels)
            path = root / "images" / split / str(index)
            if index % 3 == 0:
                np.save(path.with_suffix(".npy"), np.moveaxis(image, 0, -1))
            else:
                layout = "separate" if index % 3 == 1 else "contig"
                pixels = image if index % 3 == 1 else np.moveaxis(image, 0, -1)
                tifffile.imwrite(
                    path.with_suffix(".tif"), pixels, photometric="minisblack", planarconfig=layout, compression="lzw"
                )
            Image.fromarray(label).save(root / "annotations" / split / f"{index}.png")
    (root / "classes.txt").write_text("dark\nbright\n")
    return root


@pytest.fixture(scope="module", params=["uint16", "float32"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp(request.param) / request.param, request.param)


def run(data: Path, output: Path, *options: str) -> Path:
    train.main([*TINY, "--model.arch=unet", f"--data.root={data}", f"--train.output={output}", *options])
    return output


@pytest.fixture(scope="module")
def folder(data: Path) -> Path:
    return run(data, data.parent / "run", "--data.channels=4")


def test_mean_and_std_of_the_training_images_are_remembered(data: Path, folder: Path) -> None:
    images = [scene(index, data.name, 4)[0].reshape(4, -1).astype(np.float64) for index in range(4)]
    values = np.concatenate(images, axis=1) / (65535 if data.name == "uint16" else 1)
    for name in ("last.pt", "best.pt"):
        config = load_checkpoint(folder / name).config.data
        np.testing.assert_allclose(config.mean, values.mean(1), rtol=1e-9)
        np.testing.assert_allclose(config.std, values.std(1), rtol=1e-6)
    assert f"mean: [{config.mean[0]!r}" in (folder / "config.yaml").read_text()
    assert load_checkpoint(folder / "last.pt").model["encoder.conv1.weight"].shape[1] == 4


def test_a_run_goes_on_bit_for_bit_and_measures_nothing_again(
    data: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = load_checkpoint(folder / "previous.pt")
    assert half.iteration == 2
    shutil.copy(folder / "previous.pt", tmp_path / "last.pt")
    monkeypatch.setattr(forward, "band_statistics", None)
    run(data, tmp_path, "--data.channels=4")
    whole, resumed = (load_checkpoint(path / "last.pt") for path in (folder, tmp_path))
    assert resumed.validation == whole.validation
    assert resumed.config == replace(whole.config, train=replace(whole.config.train, output=str(tmp_path)))
    for name, weight in whole.model.items():
        assert torch.equal(resumed.model[name], weight), name
    assert not torch.equal(half.model["encoder.conv1.weight"], whole.model["encoder.conv1.weight"])


def test_it_is_evaluated_as_it_was_validated(folder: Path, tmp_path: Path) -> None:
    evaluate.main(["--checkpoint", str(folder / "last.pt"), "--device=cpu", "--output", str(tmp_path / "scores.json")])
    scores = load_checkpoint(folder / "last.pt").validation.scores
    assert scores is not None
    assert json.loads((tmp_path / "scores.json").read_text())["mean_iou"] == scores.mean_iou


def predicted(folder: Path, images: Path, output: Path, *options: str) -> Callable[[str], np.ndarray[Any, Any]]:
    """The class ids that are written of an image."""
    predict.main(["--checkpoint", str(folder / "last.pt"), str(images), "--output", str(output), *options])
    return lambda name: np.array(Image.open(output / f"{name}.png"))


WINDOWS = ("--eval.mode=slide", "--eval.window=[32,32]", "--eval.stride=[13,17]", "--eval.flip=true")


@pytest.mark.parametrize("options", [(), WINDOWS, (*WINDOWS, "--eval.scales=[0.75,1.5]")])
def test_it_predicts_files_of_every_kind_as_it_is_told(
    data: Path, folder: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    ids = predicted(folder, data / "images" / "val", tmp_path, "--data.show=[4,2,1]", *options)
    checkpoint = load_checkpoint(folder / "last.pt")
    evaluation = checkpoint.config.eval
    if options:
        evaluation = replace(evaluation, mode="slide", window=(32, 32), stride=(13, 17), flip=True)
    if len(options) > len(WINDOWS):
        evaluation = replace(evaluation, scales=(0.75, 1.5))
    forward = create_forward(restore_model(checkpoint), replace(checkpoint.config, eval=evaluation))
    scale = 65535 if data.name == "uint16" else 1
    for index in (4, 5):
        image = torch.from_numpy(scene(index, data.name, 4)[0].astype(np.float32)) / scale
        expected = forward.predict_labels(image[None])[0]
        assert (ids(str(index)) == expected.numpy()).all()
        stored = ImageReader(4)(next((data / "images" / "val").glob(f"{index}.*")))
        with Image.open(tmp_path / f"{index}_overlay.png") as picture:
            pixels = np.array(picture)[: stored.shape[1], : stored.shape[2]].astype(float)
        shown = visible(stored, (4, 2, 1)).permute(1, 2, 0).numpy()
        assert np.corrcoef(pixels[..., 1].ravel(), shown[..., 1].ravel())[0, 1] > 0.5


def test_windows_give_other_labels_than_the_whole(data: Path, folder: Path, tmp_path: Path) -> None:
    whole = predicted(folder, data / "images" / "val", tmp_path / "a")
    windows = predicted(folder, data / "images" / "val", tmp_path / "b", *WINDOWS)
    assert (whole("4") != windows("4")).any()


def test_images_of_other_bands_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.zeros((6, 40, 40), np.uint8))
    with pytest.raises(SystemExit) as stopped:
        predicted(folder, tmp_path, tmp_path / "out")
    assert stopped.value.code == 1
    err = capsys.readouterr().err
    assert "a.png holds RGB colours, but --data.channels is 4; save it as TIFF or .npy with 4 bands." in err
    assert "b.npy is an array of shape (6, 40, 40), which is neither of (4, H, W) and (H, W, 4)" in err
    other = write_data(tmp_path / "other", "uint8", channels=3)
    line = failure(evaluate.main, ["--checkpoint", str(folder / "last.pt"), "--data.root", str(other)], capsys)
    assert "4.tif has 3 bands, but --data.channels is 4" in line or "5.tif has 3 bands" in line


def test_the_check_reads_bands(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data.dataset=folder", "--data.root", str(data)]
    check_data.main([*options, "--data.channels=4"])
    assert "train: 4 images, 0 of them cannot be used; 36 to 39 pixels high, 44 wide" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        check_data.main([*options, "--data.channels=6"])
    assert stopped.value.code == 1
    assert "1.tif has 4 bands, but --data.channels is 6" in capsys.readouterr().out


def test_the_head_of_the_paper_learns_from_bands(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", "uint8", channels=6)
    model = [*MTACLIP, "--model.text_encoder=null", "--train.iterations=2", "--data.show=[6]"]
    train.main([*TINY, *model, "--data.channels=6", f"--data.root={data}", f"--train.output={tmp_path / 'run'}"])
    ids = predicted(tmp_path / "run", data / "images" / "val", tmp_path / "out")
    assert ids("4").shape == (40, 44)
    assert load_checkpoint(tmp_path / "run" / "last.pt").config.data.shown_bands == (6,)


def test_one_band_of_grey_pictures(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", "L")
    run(data, tmp_path / "run", "--data.channels=1", "--train.iterations=2")
    assert predicted(tmp_path / "run", data / "images" / "val", tmp_path / "out")("5").shape == (41, 44)


def write_pictures(root: Path, mode: str) -> Path:
    """The same scenes as PNGs."""
    for path in sorted((write_data(root, "uint8", channels=3) / "images").rglob("*.*")):
        pixels = ImageReader(3)(path).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).convert(mode).save(path.with_suffix(".png"))
        path.unlink()
    return root


def test_with_three_bands_of_8_bits_nothing_changes(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", "RGB")
    runs = [run(data, tmp_path / "a"), run(data, tmp_path / "b", "--data.channels=3")]
    pictures, bands = (load_checkpoint(folder / "last.pt") for folder in runs)
    assert pictures.config.data.mean == bands.config.data.mean == (0.485, 0.456, 0.406)
    assert pictures.validation == bands.validation
    for name, weight in pictures.model.items():
        assert torch.equal(bands.model[name], weight), name


def test_colours_are_distorted_between_0_and_1_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*TINY, "--model.arch=unet", "--data.channels=3", "--data.photometric=1", "--train.iterations=2"]
    deep = write_data(tmp_path / "deep", "uint16", channels=3)
    train.main([*options, f"--data.root={deep}", f"--train.output={tmp_path / 'a'}"])
    own_unit = write_data(tmp_path / "unit", "float32", channels=3)
    line = failure(train.main, [*options, f"--data.root={own_unit}", f"--train.output={tmp_path / 'b'}"], capsys)
    assert "--data.photometric distorts colours between 0 and 1, but the images are float32" in line


@pytest.mark.parametrize("channels", [1, 4, 7])
@pytest.mark.parametrize("arch", ["fpn", "mtaclip"])
def test_packaged_weights_are_adapted_as_timm_does(arch: str, channels: int) -> None:
    options = {"text_encoder": None, "decoder_channels": 64} if arch == "mtaclip" else {}
    three, other = (
        build_model(
            arch,
            encoder_name="tu-tf_efficientnet_lite0",
            encoder_weights="packaged",
            in_channels=count,
            class_names=["a", "b"],
            **options,
        ).encoder.model.conv_stem.weight
        for count in (3, channels)
    )
    if channels == 1:
        expected = three.sum(1, keepdim=True)
    else:
        expected = torch.stack([three[:, band % 3] for band in range(channels)], 1) * 3 / channels
    torch.testing.assert_close(other, expected)
