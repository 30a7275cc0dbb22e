from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import text_sources
from benchmarks.text_sources import (
    CLIP_BANK_FILE,
    CLIP_NAMES_FILE,
    ONLY_NEAR,
    SAME_THING,
    clip_bank,
    clip_coverage,
    random_bank,
    shuffled,
    write_bank,
)
from mtaclip_plugin.text.vocabularies import vocabulary
from tests.trainers.tiny_runs import failure
from trainers.text.text_bank import load_text_bank

COCO_STUFF = [
    "person", "bicycle", "car", "stop sign", "parking meter", "handbag", "tie",
    "building-other", "fence", "pavement", "road", "sky-other", "tree",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / CLIP_NAMES_FILE).write_text("\n".join(COCO_STUFF) + "\n")
    for factor, template in enumerate(("single", "ensemble"), 1):
        np.save(tmp_path / CLIP_BANK_FILE.format(template=template), factor * clip_rows().numpy().astype(np.float16))
    return tmp_path


def clip_rows() -> Tensor:
    """(13, 16) float16 numbers: what the files hold."""
    return torch.randn(len(COCO_STUFF), 16, generator=torch.Generator().manual_seed(7)).half().float()


@pytest.mark.parametrize("classes", [2, 3, 11])
def test_no_class_keeps_its_row_and_no_row_is_lost(classes: int) -> None:
    bank = torch.randn(classes, 4)
    for seed in range(30):
        dealt = shuffled(bank, seed)
        assert not (dealt == bank).all(1).any()
        assert torch.equal(dealt.sort(0).values, bank.sort(0).values)
        assert torch.equal(dealt, shuffled(bank, seed))


def test_all_ways_of_dealing_out_are_taken() -> None:
    rows = torch.arange(4.0).unsqueeze(1)
    assert len({tuple(shuffled(rows, seed).flatten().tolist()) for seed in range(200)}) == 9  # !4


@pytest.mark.parametrize("shape", [(1, 4), (4,), (2, 3, 4)])
def test_what_cannot_be_dealt_out_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"pass one of \(K, T\) with K of 2 or more"):
        shuffled(torch.zeros(shape), 0)


def test_a_random_bank_is_of_unit_norm_and_of_its_seed() -> None:
    like = torch.zeros(11, 384, dtype=torch.float16)
    bank = random_bank(like, 3)
    assert bank.shape == like.shape and bank.dtype == torch.float32
    torch.testing.assert_close(bank.norm(dim=1), torch.ones(11))
    assert torch.equal(bank, random_bank(like, 3)) and not torch.equal(bank, random_bank(like, 4))
    assert (bank @ bank.T - torch.eye(11)).abs().max() < 0.3


def test_a_written_bank_is_read_for_its_classes_only(tmp_path: Path) -> None:
    bank, path = random_bank(torch.zeros(2, 8), 0), tmp_path / "bank.safetensors"
    write_bank(path, bank, ["sky", "road"], "random")
    assert torch.equal(load_text_bank(path, ["sky", "road"]), bank)
    with pytest.raises(ValueError, match=r'made for the classes \["sky", "road"\]'):
        load_text_bank(path, ["road", "sky"])


def test_a_bank_with_another_number_of_rows_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    for rows in (torch.zeros(3, 8), torch.zeros(1, 2, 8)):
        with pytest.raises(ValueError, match="does not fit 2 class names; pass one row for each"):
            write_bank(path, rows, ["sky", "road"], "random")
    assert not path.exists()


def test_camvid_is_covered_by_distinct_rows(folder: Path) -> None:
    coverage = clip_coverage(vocabulary("camvid"), folder)
    assert coverage.exact == ("road", "pavement", "tree", "fence", "car")
    assert set(coverage.same_thing) == {"sky", "building"}
    assert set(coverage.only_near) == {"pole", "sign symbol", "pedestrian", "bicyclist"}
    assert not coverage.missing
    bank = clip_bank(vocabulary("camvid"), folder)
    assert bank.dtype == torch.float32
    torch.testing.assert_close(bank.norm(dim=1), torch.ones(len(vocabulary("camvid"))))
    assert len(bank.unique(dim=0)) == len(vocabulary("camvid"))


def test_each_class_has_the_row_of_its_name(folder: Path) -> None:
    rows = clip_rows()
    expected = rows[[COCO_STUFF.index("tree"), COCO_STUFF.index("sky-other"), COCO_STUFF.index("person")]]
    for template in ("single", "ensemble"):
        bank = clip_bank(["tree", "sky", "pedestrian"], folder, template=template)
        torch.testing.assert_close(bank, expected / expected.norm(dim=1, keepdim=True))


def test_the_template_says_which_file(folder: Path) -> None:
    (folder / CLIP_BANK_FILE.format(template="ensemble")).unlink()
    assert clip_bank(["tree", "sky"], folder, template="single").shape == (2, 16)
    with pytest.raises(FileNotFoundError, match="ensemble"):
        clip_bank(["tree", "sky"], folder)


def test_classes_with_no_name_near_are_named(folder: Path) -> None:
    classes = ["tie", "purse", "blazer", "romper"]
    coverage = clip_coverage(classes, folder)
    assert coverage.exact == ("tie",) and coverage.same_thing == {"purse": "handbag"}
    assert coverage.missing == ("blazer", "romper")
    with pytest.raises(ValueError, match=r"none for 2 of 4 classes \(blazer, romper\); take a data set"):
        clip_bank(classes, folder)


def test_classes_that_would_share_a_row_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="the classes person, pedestrian would share an embedding"):
        clip_bank(["person", "tree", "pedestrian"], folder)


def test_files_that_do_not_fit_each_other_are_refused(folder: Path) -> None:
    np.save(folder / CLIP_BANK_FILE.format(template="single"), np.ones((4, 16), np.float16))
    with pytest.raises(ValueError, match=r"shape \(4, 16\) for 13 names"):
        clip_bank(["tree", "sky"], folder, template="single")


def test_no_name_is_both_the_same_thing_and_only_near() -> None:
    assert not set(SAME_THING) & set(ONLY_NEAR)
    names = [*SAME_THING.values(), *ONLY_NEAR.values()]
    assert len(set(names)) == len(names) and set(names) <= set(vocabulary("coco_stuff"))


def test_the_program_writes_a_bank(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes, output = tmp_path / "classes.txt", tmp_path / "new" / "clip.safetensors"
    classes.write_text("sky\ncar\n")
    text_sources.main(["--clip_text", str(folder), "--classes", str(classes), "--output", str(output)])
    torch.testing.assert_close(load_text_bank(output, ["sky", "car"]), clip_bank(["sky", "car"], folder))
    classes.write_text("sky\nskin\n")
    options = ["--clip_text", str(folder), "--classes", str(classes), "--output", str(output)]
    assert "skin" in failure(text_sources.main, options, capsys)
