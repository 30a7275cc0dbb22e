from __future__ import annotations

import os
import shutil
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from PIL import Image

from trainers import check_data, evaluate, train
from trainers.assemble import create_dataset
from trainers.data.batch import SegmentationDataset
from trainers.data.check import CHECKED_FILE, check_before_training
from trainers.data.findings import BadSample, Finding, read_once
from trainers.data.folder import FolderDataset
from trainers.data.shapes import ShapesDataset
from trainers.foundation import processes
from trainers.options.parsing import parse_config
from trainers.run.checkpoints import load_checkpoint

IDS = (np.arange(16 * 24) // 24 % 3).astype(np.uint8).reshape(16, 24)
PIXELS = np.stack([np.indices((16, 24))[0] * 8, np.indices((16, 24))[1] * 5, np.full((16, 24), 40)], -1).astype(
    np.uint8
)
GOOD = ["alpha", "exif", "grey", "palette", "plain"]
BAD = {  # the name of a pair, and what is said of it
    "empty": r"Cannot read the image .*images/train/empty\.jpg",
    "emptymask": r"Cannot read the image .*annotations/train/emptymask\.png",
    "ids": r"annotations/train/ids\.png has the ids \[9\]",
    "maskless": r"maskless\.png has no mask: expected .*annotations/train/maskless\.png",
    "rgbmask": r"annotations/train/rgbmask\.png holds RGB colours, not class ids",
    "sixteen": r"images/train/sixteen\.png has more than 8 bits",
    "smallmask": r"annotations/train/smallmask\.png is 12x16 pixels but its image is 24x16",
    "text": r"Cannot read the image .*images/train/text\.png",
    "truncated": r"Cannot read the image .*images/train/truncated\.jpg .*truncated",
}


def write_folder(root: Path, *, splits: tuple[str, ...] = ("train", "val")) -> None:
    """Three good pairs, plain, plain1 and plain2, in each split; those of the splits differ."""
    root.mkdir(exist_ok=True)
    (root / "classes.txt").write_text("sky\nroad\ntree\n")
    for number, split in enumerate(splits):
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True)
        for index, end in enumerate(("", "1", "2")):
            Image.fromarray(PIXELS + np.uint8(3 * number + index)).save(root / f"images/{split}/plain{end}.png")
            Image.fromarray(IDS).save(root / f"annotations/{split}/plain{end}.png")


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A folder whose training split has a picture of every kind, good and bad."""
    root = tmp_path / "data"
    write_folder(root, splits=("train",))
    images, masks = root / "images/train", root / "annotations/train"
    for folder in (images, masks):
        for end in ("1", "2"):
            (folder / f"plain{end}.png").unlink()
    picture, exif = Image.fromarray(PIXELS), Image.Exif()
    exif[0x0112] = 6
    picture.convert("RGBA").save(images / "alpha.png")
    picture.convert("L").save(images / "grey.png")
    picture.quantize(8).save(images / "palette.png")
    picture.transpose(Image.Transpose.ROTATE_90).save(images / "exif.jpg", exif=exif, quality=95, subsampling=0)
    for name in ("ids", "maskless", "rgbmask", "smallmask"):
        picture.save(images / f"{name}.png")
    picture.resize((240, 160)).save(images / "truncated.jpg")
    (images / "truncated.jpg").write_bytes((images / "truncated.jpg").read_bytes()[:-300])
    (images / "empty.jpg").write_bytes(b"")
    (images / "text.png").write_text("no picture")
    picture.save(images / "emptymask.jpg")
    Image.fromarray(np.full((16, 24), 40_000, np.uint16)).save(images / "sixteen.png")
    for name in {*GOOD, *BAD} - {"maskless"}:
        Image.fromarray(IDS).save(masks / f"{name}.png")
    Image.fromarray(np.where(IDS == 2, 9, IDS).astype(np.uint8)).save(masks / "ids.png")
    Image.fromarray(IDS).convert("RGB").save(masks / "rgbmask.png")
    Image.fromarray(IDS[:, :12]).save(masks / "smallmask.png")
    (masks / "emptymask.png").write_bytes(b"")
    return root


def check(
    dataset: SegmentationDataset, folder: Path, on_error: str = "stop", workers: int = 0, learned: bool = False
) -> SegmentationDataset:
    return check_before_training(
        dataset,
        split="train",
        folder=folder,
        on_error=on_error,  # type: ignore[arg-type]
        num_workers=workers,
        learned=dataset.class_names if learned else (),
    )


def test_a_run_stops_with_the_list_of_bad_pictures(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = FolderDataset(zoo, "train")
    assert dataset.names == sorted([*GOOD, *BAD])
    first = BAD["empty"]
    with pytest.raises(
        ValueError, match=r"9 of the 14 images .* train cannot be used.*--data\.on_error skip.*" + first
    ):
        check(dataset, tmp_path / "run")
    _, _, below = capsys.readouterr().err.partition("9 of the 14 images of the split train cannot be used:\n")
    lines = below.splitlines()
    assert len(lines) == 9
    for line, (name, said) in zip(lines, BAD.items(), strict=True):
        with pytest.raises((OSError, ValueError), match=said):
            dataset[dataset.names.index(name)]
        assert str(zoo) in line and name in line


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_pictures_are_left_out_in_order(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    dataset = FolderDataset(zoo, "train")
    rest = check(dataset, tmp_path / "run", "skip", workers)
    assert isinstance(rest, FolderDataset) and rest.names == GOOD and len(rest) == 5 and len(dataset) == 14
    assert rest.class_names == dataset.class_names
    assert "9 of the 14 images of the split train cannot be used:" in capsys.readouterr().err
    for index, name in enumerate(GOOD):
        sample = rest[index]
        assert sample.name == name and sample.label.tolist() == IDS.tolist()
        expected = np.array(Image.fromarray(PIXELS).convert("L").convert("RGB")) if name == "grey" else PIXELS
        close = {"palette": 12, "exif": 2}.get(name, 0)
        difference = (sample.image.permute(1, 2, 0).float() - torch.from_numpy(expected.astype(np.float32))).abs()
        assert difference.mean() <= close and sample.image.shape == (3, 16, 24)


def run_training(data: Path, run: Path, *options: str) -> None:
    small = ["--data.crop_size=[32,32]", "--train.iterations=2", "--train.batch_size=2", "--optim.warmup_iterations=1"]
    model = ["--model.arch=unet", "--model.encoder_name=resnet18", "--model.encoder_weights=null"]
    rest = ["--data.val_split=train", "--train.overlays=0", "--train.device=cpu", "--train.output", str(run)]
    train.main(["--data.dataset=folder", "--data.root", str(data), *small, *model, *rest, *options])


def test_training_stops_before_its_first_step(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_training(zoo, tmp_path / "run")
    assert stopped.value.code == 2
    _, _, last = capsys.readouterr().err.rstrip().rpartition("\n")
    assert last.startswith("error: 9 of the 14 images of the split train cannot be used; ")
    assert [file.name for file in (tmp_path / "run").iterdir()] == [CHECKED_FILE]


def test_training_leaves_bad_pictures_out(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_training(zoo, tmp_path / "run", "--data.on_error=skip")
    captured = capsys.readouterr()
    assert "5 training and 5 validation images" in captured.out
    assert captured.err.count("9 of the 14 images of the split train cannot be used:") == 2
    assert load_checkpoint(tmp_path / "run" / "last.pt").iteration == 2


def test_what_was_read_well_is_not_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "data")
    dataset, run = FolderDataset(tmp_path / "data", "train"), tmp_path / "run"
    assert check(dataset, run) is dataset
    image = dataset.pairs[1].image
    before = image.stat()
    image.write_bytes(bytes(before.st_size))
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    capsys.readouterr()
    assert check(dataset, run) is dataset and capsys.readouterr().err == ""  # nothing was read
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    for _ in range(2):  # what is bad is never taken as read
        with pytest.raises(ValueError, match=r"1 of the 3 images .*plain1\.png"):
            check(dataset, run)
    assert isinstance(rest := check(dataset, run, "skip"), FolderDataset) and rest.names == ["plain", "plain2"]
    # Another meaning of the ids is another check, of the masks of all.
    other = FolderDataset(tmp_path / "data", "train", ignore_ids=(2,))
    assert isinstance(rest := check(other, run, "skip"), FolderDataset) and rest.names == ["plain", "plain2"]
    assert len((run / CHECKED_FILE).read_text().split()) == 3 + 2
    (tmp_path / "data/classes.txt").write_text("sky\nroad\n")
    with pytest.raises(ValueError, match="3 of the 3 images"):
        check(FolderDataset(tmp_path / "data", "train"), run, "skip")


def test_a_check_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    write_folder(tmp_path / "data")
    dataset, file = FolderDataset(tmp_path / "data", "train"), tmp_path / "run" / CHECKED_FILE
    check(dataset, tmp_path / "run")
    whole = file.read_text().split()
    assert len(whole) == len(set(whole)) == 3
    file.write_text(file.read_text()[:-5])
    check(dataset, tmp_path / "run")
    assert set(file.read_text().split()) == {*whole, whole[2][:-5]}


def test_a_class_without_a_pixel_is_told_at_every_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "data")
    (tmp_path / "data/classes.txt").write_text("sky\nroad\ntree\nsign\nmoon\n")
    dataset, run = FolderDataset(tmp_path / "data", "train"), tmp_path / "run"
    for read in (True, False):  # the second time, nothing is read
        assert check(dataset, run, learned=True) is dataset
        error = capsys.readouterr().err
        assert error.endswith(
            "warning: The split train holds no pixel of 2 of the 5 classes: sign, moon; nothing can be learned of what "
            "is not there: check that the ids in the masks count as the names do.\n"
        )
        assert ("check train" in error) == read
    check(dataset, run)  # as for a split that is only validated on
    assert capsys.readouterr().err == ""
    # What an earlier version wrote down does not tell which labels there are: it is read anew.
    file = run / CHECKED_FILE
    file.write_text("\n".join(line.partition(":")[2] for line in file.read_text().split()))
    check(dataset, run, learned=True)
    assert "sign, moon" in capsys.readouterr().err and len(file.read_text().split()) == 3 + 3
    # A class that only an image has which is left out, is not there.
    Image.fromarray(np.where(IDS == 2, 3, IDS).astype(np.uint8)).save(tmp_path / "data/annotations/train/plain.png")
    (tmp_path / "data/images/train/plain.png").write_bytes(b"")
    check(FolderDataset(tmp_path / "data", "train"), run, "skip", learned=True)
    assert "sign, moon" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "ignore_ids", "sentence"),
    [
        (
            (0, 255),
            (),
            "the class road: its masks hold sky and 255, and 255 means ignore; write 1 where the masks say 255.",
        ),
        (
            (1, 255),
            (),
            "the class sky: its masks hold road and 255, and 255 means ignore; write 0 where the masks say 255.",
        ),
        ((255, 255), (), "2 of the 2 classes: sky, road: its masks hold 255 alone, and 255 means ignore; write the id"),
        ((0, 0), (), "the class road; nothing can be learned of what is not there"),
        ((0, 7), (7,), "the class road; nothing can be learned of what is not there"),
    ],
)
def test_less_than_two_classes_stop_a_run(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    values: tuple[int, int],
    ignore_ids: tuple[int, ...],
    sentence: str,
) -> None:
    write_folder(tmp_path / "data")
    (tmp_path / "data/classes.txt").write_text("sky\nroad\n")
    for mask in (tmp_path / "data/annotations").rglob("*.png"):
        Image.fromarray(np.where(IDS == 1, values[1], values[0]).astype(np.uint8)).save(mask)
    given = [f"--data.ignore_ids={list(ignore_ids)}"]
    for _ in range(2):  # also where all is remembered
        with pytest.raises(SystemExit) as stopped:
            run_training(tmp_path / "data", tmp_path / "run", *given)
        assert stopped.value.code == 2
        _, _, error = capsys.readouterr().err.rpartition("error: ")
        assert error.startswith(f"The split train holds no pixel of {sentence}")
    assert [file.name for file in (tmp_path / "run").iterdir()] == [CHECKED_FILE]
    with pytest.raises(SystemExit) as stopped:
        check_data.main([*options(tmp_path / "data"), *given])
    assert stopped.value.code == 1
    page = " ".join(capsys.readouterr().out.split())
    assert "1. classes without a pixel to learn from: 1" in page and "holds no pixel of" in page.partition("right:")[2]


def test_only_classes_that_are_to_be_learned_are_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "data")
    (tmp_path / "data/classes.txt").write_text("sky\nroad\ntree\nsign\nmoon\nsun\n")
    (tmp_path / "data/images/train/note.txt").write_text("")
    given = [*options(tmp_path / "data"), "--data.ignore_classes=[sign]", "--data.unseen=[road,moon]"]
    check_data.main(given)
    page = " ".join(capsys.readouterr().out.split())
    assert "- train holds no pixel of the class sun" in page and "- val holds no pixel of moon, sun" in page
    assert "the other 3 of 5 classes" in page and "- images/train/note.txt" in page
    # The run says the same, of the labels that it finds in the files.
    config = parse_config(given)
    dataset = create_dataset(config.data, "train")
    seen = [name for name in dataset.class_names if name not in config.data.unseen_names]
    rest = check_before_training(
        dataset, split="train", folder=tmp_path / "run", on_error="stop", num_workers=0, learned=seen
    )
    assert rest.class_names == ["sky", "road", "tree", "moon", "sun"]
    error = capsys.readouterr().err
    assert "holds no pixel of the class sun; nothing can be learned" in error and "(1): " in error


def test_there_is_a_page_on_generated_scenes(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("shapes", "kinds"):
        check_data.main([f"--data.dataset={name}", "--data.size=40", "--data.train_length=2", "--data.val_length=1"])
        assert capsys.readouterr().out.startswith(
            "train: 2 images, 0 of them cannot be used; 40 pixels high, 40 wide\n"
        )


def test_the_first_of_several_processes_tells_the_others(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    monkeypatch.setattr(processes, "_told", lambda message: said.append(message) or said[0])
    rests = []
    for rank in (0, 1):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        folder = tmp_path / str(rank)  # the second does not read, or it would write here
        rests.append(check(FolderDataset(zoo, "train"), folder, "skip", learned=True))
        assert folder.exists() == (rank == 0)
    assert rests[0].names == rests[1].names == GOOD  # type: ignore[attr-defined]
    # What stops a run stops it in all of them, also where only the first has read.
    for mask in (zoo / "annotations/train").iterdir():
        Image.new("L", IDS.shape[::-1]).save(mask)
    said.clear()
    for rank in (0, 1):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        with pytest.raises(ValueError, match="holds no pixel of 2 of the 3 classes: road, tree"):
            check(FolderDataset(zoo, "train"), tmp_path / f"again{rank}", "skip", learned=True)


def test_what_is_left_aside_is_told_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "data")
    images, masks = tmp_path / "data/images/train", tmp_path / "data/annotations/train"
    for folder in (images, masks):
        (folder / "city").mkdir()
        (folder / "plain1.png").rename(folder / "city/plain.png")
    (images / "raw.heic").write_bytes(b"")
    Image.fromarray(IDS).save(masks / "spare.png")
    run_training(tmp_path / "data", tmp_path / "run", "--train.overlays=3")
    error = capsys.readouterr().err
    assert error.count(f"(1): {images}/raw.heic; of pictures, save those") == 2  # as training and as validation images
    assert error.count(f"masks left aside, without an image of their own (1): {masks}/spare.png; add the images") == 2
    overlays = tmp_path / "run/overlays"
    assert {path.relative_to(overlays).as_posix() for path in overlays.rglob("*.png")} == {
        "plain.png",
        "plain2.png",
        "city/plain.png",
    }
    evaluate.main(["--checkpoint", str(tmp_path / "run/last.pt"), "--device", "cpu"])
    assert f"(1): {images}/raw.heic; of pictures" in capsys.readouterr().err


def test_masks_with_a_suffix_are_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "data", splits=("train",))
    for mask in (tmp_path / "data/annotations/train").iterdir():
        mask.rename(mask.with_name(f"{mask.stem}_Mask.PNG"))
    with pytest.raises(SystemExit):
        run_training(tmp_path / "data", tmp_path / "run")
    assert 'add --data.mask_suffix "_Mask".' in capsys.readouterr().err
    run_training(tmp_path / "data", tmp_path / "run", "--data.mask_suffix=_mask")
    assert load_checkpoint(tmp_path / "run/last.pt").config.data.mask_suffix == "_mask"


def test_long_lists_are_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "data", splits=("train",))
    for index in range(25):
        (tmp_path / f"data/images/train/{index:02}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="25 of the 28 images"):
        check(FolderDataset(tmp_path / "data", "train"), tmp_path / "run")
    *lines, last = capsys.readouterr().err.rstrip().splitlines()
    assert sum("has no mask" in line for line in lines) == 20
    assert last.strip() == "... and 5 more: python -m trainers.check_data --all lists all."


def test_a_dataset_without_any_good_picture_cannot_be_skipped(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", splits=("train",))
    for image in (tmp_path / "data/images/train").iterdir():
        image.write_bytes(b"")
    with pytest.raises(ValueError, match="3 of the 3 images") as error:
        check(FolderDataset(tmp_path / "data", "train"), tmp_path / "run", "skip")
    assert "on_error" not in str(error.value)


def test_generated_scenes_need_no_check(tmp_path: Path) -> None:
    dataset = ShapesDataset("train", size=32, length=2)
    assert check(dataset, tmp_path / "run") is dataset and not (tmp_path / "run").exists()


def test_findings_tell_sizes_labels_and_equal_pixels(zoo: Path) -> None:
    shutil.copy(zoo / "images/train/plain.png", zoo / "images/train/ids.png")
    found = list(read_once(FolderDataset(zoo, "train"), num_workers=0, title=""))
    by_name = {each.name: each for each in found if isinstance(each, Finding)}
    assert [each.index for each in found] == list(range(14)) and sorted(by_name) == GOOD
    plain = by_name["plain"]
    assert plain.size == (16, 24) and plain.counts.shape == (256,)
    assert plain.counts[:4].tolist() == [6 * 24, 5 * 24, 5 * 24, 0]
    assert plain.digest == by_name["alpha"].digest  # other files, the same pixels
    assert len({finding.digest for finding in by_name.values()}) == 4
    kinds = {Path(each.problem.path).stem: each.problem.kind for each in found if isinstance(each, BadSample)}
    assert kinds == dict.fromkeys(("empty", "emptymask", "text", "truncated"), "files that cannot be read") | {
        "ids": "masks with ids that are no class",
        "maskless": "images without a mask",
        "rgbmask": "masks in colours",
        "sixteen": "images of more than 8 bits a channel",
        "smallmask": "masks of another size than their image",
    }


def options(root: Path) -> list[str]:
    return ["--data.dataset", "folder", "--data.root", str(root)]


def test_the_command_reports_on_good_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "data")
    Image.fromarray(np.where(IDS == 1, 255, 0).astype(np.uint8)).save(tmp_path / "data/annotations/val/plain.png")
    shutil.copy(tmp_path / "data/images/train/plain1.png", tmp_path / "data/images/val/twin.png")
    Image.fromarray(IDS).save(tmp_path / "data/annotations/val/twin.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "data/images/val/wide.png")
    Image.new("L", (30, 20), 2).save(tmp_path / "data/annotations/val/wide.png")
    check_data.main(options(tmp_path / "data"))
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert "train: 3 images, 0 of them cannot be used; 16 pixels high, 24 wide" in out
    assert "val: 5 images, 0 of them cannot be used; 16 to 20 pixels high, 24 to 30 wide" in out
    total, third = 4 * 384 + 600, 5 * 24
    assert ["sky", "37.500%", "3", f"{(3 * 144 + 264) / total:.3%}", "4"] in lines
    assert ["road", "31.250%", "3", f"{3 * third / total:.3%}", "3"] in lines
    assert ["tree", "31.250%", "3", f"{(3 * third + 600) / total:.3%}", "4"] in lines
    assert ["(ignored)", "0.000%", "0", f"{third / total:.3%}", "1"] in lines
    _, _, shared = out.partition("1. images that are in train and in val: 1\n")
    assert shared.splitlines()[1:] == ["    - plain1 = twin"] and "To be put right" not in out


def test_the_command_lists_what_cannot_be_used(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for every in (False, True):
        with pytest.raises(SystemExit) as stopped:
            check_data.main([*options(zoo), "--data.val_split", "train", *["--all"] * every])
        assert stopped.value.code == 1
        out = capsys.readouterr().out
        assert out.startswith("train: 14 images, 9 of them cannot be used;") and "val" not in out
        for kind, count in (
            ("images without a mask", 1),
            ("files that cannot be read", 4),
            ("masks with ids that are no class", 1),
            ("masks in colours", 1),
        ):
            _, _, below = out.partition(f". {kind}: {count}\n")
            lines = below.split("\n\n")[0].splitlines()
            assert lines[0].startswith("    Remedy: ")
            entries = [line for line in lines if line.startswith("    - ")]
            assert len(entries) == (count if every else min(count, 3 + 1))
            assert ("--all names them" in entries[-1]) == (count > 3 and not every)


def test_the_command_needs_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        check_data.main(["--data.dataset", "ade20k", "--data.root", str(tmp_path)])
    assert stopped.value.code == 2
    assert f"ADE20K is not in {tmp_path}" in capsys.readouterr().err
