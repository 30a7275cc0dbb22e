from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainers.tiny_runs import MTACLIP, TINY
from trainers import predict, train
from trainers.assemble import create_forward, restore_model
from trainers.data.reading import read_image
from trainers.engine.forward import Forward
from trainers.options.config import EvalConfig
from trainers.run.checkpoints import load_checkpoint


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    train.main([*TINY, *MTACLIP, "--train.output", str(folder / "mtaclip")])
    train.main([*TINY, "--model.arch=unet", "--train.output", str(folder / "unet")])
    return {arch: folder / arch / "last.pt" for arch in ("mtaclip", "unet")}


def run_predict(checkpoint: Path, images: Sequence[Path], output: Path, *options: str) -> None:
    predict.main(["--checkpoint", str(checkpoint), *map(str, images), "--output", str(output), *options])


def write_image(path: Path, size: tuple[int, int], mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 50).convert("RGB").convert(mode).save(path)
    return path


def names_in(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("arch", ["mtaclip", "unet"])
def test_two_pictures_for_each_image_and_a_contact_sheet(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], arch: str
) -> None:
    write_image(tmp_path / "in" / "a.jpg", (50, 33))
    write_image(tmp_path / "in" / "b.png", (20, 70))
    output = tmp_path / "out"
    run_predict(checkpoints[arch], [tmp_path / "in"], output)
    assert names_in(output) == {"a.png", "a_overlay.png", "b.png", "b_overlay.png", "index.html"}
    with Image.open(output / "a.png") as index, Image.open(output / "a_overlay.png") as picture:
        assert index.mode == "P" and index.size == (50, 33) and max(index.tobytes()) < 12
        assert picture.width >= 50 and picture.height > 33
    page = (output / "index.html").read_text(encoding="utf-8")
    assert page.count("<article>") == 2 and 'href="a_overlay.png"' in page and str(tmp_path / "in" / "b.png") in page
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"2 of 2 images: {output}", f"Contact sheet: {output / 'index.html'}"]
    assert "2/2 [" in captured.err  # the progress bar


def test_the_shares_of_the_contact_sheet_are_those_of_the_index_picture(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    run_predict(checkpoints["unet"], [write_image(tmp_path / "a.png", (30, 40))], tmp_path / "out")
    with Image.open(tmp_path / "out" / "a.png") as index:
        counts = np.bincount(np.array(index).ravel())
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert page.count("<li ") == np.count_nonzero(counts)
    for count in counts[counts > 0]:
        assert f'data-share="{count / 1200:.6f}"' in page


def test_the_contact_sheet_can_be_left_out(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.jpg", (40, 40))
    run_predict(checkpoints["unet"], [image], tmp_path / "out", "--contact_sheet", "false")
    assert names_in(tmp_path / "out") == {"a.png", "a_overlay.png"}


def test_images_of_every_mode_and_of_very_small_sizes(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        write_image(tmp_path / "in" / f"{mode}.png", (20, 30), mode)
    write_image(tmp_path / "in" / "CMYK.jpg", (31, 20), "CMYK")
    write_image(tmp_path / "in" / "one.png", (1, 1))
    run_predict(checkpoints["mtaclip"], [tmp_path / "in"], tmp_path / "out")
    assert len(names_in(tmp_path / "out")) == 8 * 2 + 1
    for name, size in (("LA", (20, 30)), ("CMYK", (31, 20)), ("one", (1, 1))):
        with Image.open(tmp_path / "out" / f"{name}.png") as index:
            assert index.size == size


def test_an_unreadable_image_is_named_and_the_others_go_on(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_image(tmp_path / "good.jpg", (40, 40))
    (tmp_path / "bad.jpg").write_bytes(good.read_bytes()[:500])
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        run_predict(checkpoints["unet"], [tmp_path / "bad.jpg", tmp_path / "missing.jpg", good], output)
    assert stopped.value.code == 1
    assert names_in(output) == {"good.png", "good_overlay.png", "index.html"}
    captured = capsys.readouterr()
    assert "1 of 3 images" in captured.out
    page = (output / "index.html").read_text(encoding="utf-8")
    assert "1 picture, 2 could not be read" in page
    for name in ("bad.jpg", "missing.jpg"):
        assert sum(str(tmp_path / name) in line for line in captured.err.splitlines()) == 1
        assert f"<article><h2>{tmp_path / name}</h2>" in page


def test_images_are_looked_at_as_asked(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    images = [write_image(tmp_path / "in" / f"{index}.png", (60 + index, 50)) for index in range(2)]
    options = ["--eval.mode=slide", "--eval.window=[32,32]", "--eval.stride=[20,20]", "--eval.scales=[1,1.5]"]
    run_predict(checkpoints["mtaclip"], images, tmp_path / "out", *options, "--eval.flip=true", "--device=cpu")
    run_predict(checkpoints["mtaclip"], images, tmp_path / "whole", "--device=cpu")
    checkpoint = load_checkpoint(checkpoints["mtaclip"])
    evaluation = EvalConfig(mode="slide", window=(32, 32), stride=(20, 20), scales=(1.0, 1.5), flip=True)
    forward = create_forward(restore_model(checkpoint), replace(checkpoint.config, eval=evaluation))
    differences = 0
    for path in images:
        with Image.open(tmp_path / "out" / path.name) as index, Image.open(tmp_path / "whole" / path.name) as whole:
            labels = forward.predict_labels(read_image(path)[None] / 255)[0]
            assert (np.array(index) == labels.numpy()).all()
            differences += (np.array(index) != np.array(whole)).sum()
    assert differences > 0


def test_an_image_above_the_limit_of_pixels_gets_the_remedy(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = write_image(tmp_path / "a.png", (50, 40))
    with pytest.raises(SystemExit) as stopped:
        run_predict(checkpoints["unet"], [image], tmp_path / "out", "--data.max_pixels=1999")
    assert stopped.value.code == 1
    err = capsys.readouterr().err
    assert "a.png has 50x40 = 2000 pixels, above the limit of 1999" in err and "--eval.mode slide" in err
    run_predict(checkpoints["unet"], [image], tmp_path / "out", "--data.max_pixels=2000", "--eval.mode=slide")
    assert (tmp_path / "out" / "a.png").exists()


def test_full_memory_is_told_with_the_remedy_and_the_others_go_on(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [write_image(tmp_path / "in" / name, size) for name, size in (("a.png", (90, 80)), ("b.png", (32, 32)))]
    predict_strips = Forward.predict_strips

    def in_little_memory(forward: Forward, batch: torch.Tensor) -> Iterator[torch.Tensor]:
        if batch.numel() > 3 * 50 * 50:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return predict_strips(forward, batch)

    monkeypatch.setattr(Forward, "predict_strips", in_little_memory)
    with pytest.raises(SystemExit):
        run_predict(checkpoints["unet"], images, tmp_path / "out")
    captured = capsys.readouterr()
    assert "The memory is full at the image" in captured.err and "a.png of 90x80 pixels" in captured.err
    assert "--eval.mode slide" in captured.err and "1 of 2 images" in captured.out
    assert names_in(tmp_path / "out") == {"b.png", "b_overlay.png", "index.html"}


def test_images_of_every_format_in_all_folders_below_are_predicted_and_the_rest_is_named(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.tif", "city/a.WEBP", "city/deep/b.bmp"):
        write_image(tmp_path / name, (40, 30))
    (tmp_path / "city/c.heic").write_bytes(b"")
    output = tmp_path / "out"
    expected = {f"{name}{end}.png" for name in ("a", "a-2", "b") for end in ("", "_overlay")} | {"index.html"}
    for _ in range(2):  # the second time, there are pictures in the output folder
        run_predict(checkpoints["unet"], [tmp_path], output)
        assert names_in(output) == expected
        captured = capsys.readouterr()
        assert "3 of 3 images" in captured.out
        assert f"pictures by their suffix (1): {tmp_path}/city/c.heic; of pictures, save those" in captured.err


def test_an_empty_folder_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_predict(checkpoints["unet"], [tmp_path], tmp_path / "out")
    assert stopped.value.code == 2 and "holds no image" in capsys.readouterr().err


def test_two_folders_with_one_file_name_keep_all_outputs(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    for folder, size in (("x", (40, 40)), ("y", (20, 30))):
        write_image(tmp_path / folder / "a.png", size)
    run_predict(checkpoints["unet"], [tmp_path / "x", tmp_path / "y"], tmp_path / "out")
    with Image.open(tmp_path / "out" / "a.png") as first, Image.open(tmp_path / "out" / "a-2.png") as second:
        assert first.size == (40, 40) and second.size == (20, 30)
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert page.index(str(tmp_path / "y" / "a.png")) < page.index('href="a-2_overlay.png"')


def test_outputs_overwrite_neither_each_other_nor_the_images(tmp_path: Path) -> None:
    images = [Path("x/a.jpg"), Path("y/a.jpg"), Path("x/a_overlay.png"), tmp_path / "b.png", Path("z/a-2.png")]
    names = predict.output_names(images, tmp_path)
    files = [tmp_path / f"{name}{end}.png" for name in names for end in ("", "_overlay")]
    assert len(set(files)) == 10 and not set(files) & set(images)
    assert names[:2] == ["a", "a-2"]


def test_names_that_differ_in_case_only_are_kept_apart(tmp_path: Path) -> None:
    assert predict.output_names([Path("a.jpg"), Path("A.jpg")], tmp_path) == ["a", "A-2"]


def test_many_images_of_one_name_are_numbered_in_turn(tmp_path: Path) -> None:
    names = predict.output_names([Path(f"{folder}/frame.png") for folder in range(2000)], tmp_path)
    assert names[:3] == ["frame", "frame-2", "frame-3"] and names[-1] == "frame-2000"
