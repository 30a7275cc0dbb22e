from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import text_sources
from benchmarks.clip_names import ONLY_NEAR, SAME_THING
from benchmarks.clip_text import (
    CLIP_BANK_FILE,
    CLIP_NAMES_FILE,
    NamedText,
    clip_bank,
    clip_coverage,
    joined,
    load_named_text,
)
from benchmarks.text_sources import orthogonal_bank, random_bank, shuffled, write_bank
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


@pytest.fixture
def text(folder: Path) -> NamedText:
    return load_named_text(folder)


def clip_rows() -> Tensor:
    """(13, 16) float16 numbers: what the files hold."""
    return torch.randn(len(COCO_STUFF), 16, generator=torch.Generator().manual_seed(7)).half().float()


def written(path: Path, names: list[str], rows: Tensor) -> Path:
    save_file({"text_embeddings": rows.half()}, path, metadata={"class_names": json.dumps(names)})
    return path


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


def test_a_written_bank_is_read_by_names(tmp_path: Path) -> None:
    bank, path = random_bank(torch.zeros(2, 8), 0), tmp_path / "bank.safetensors"
    write_bank(path, bank, ["sky", "road"], "random")
    assert torch.equal(load_text_bank(path, ["sky", "road"]), bank)
    assert torch.equal(load_text_bank(path, ["road", "sky"]), bank.flip(0))


def test_a_bank_with_another_number_of_rows_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    for rows in (torch.zeros(3, 8), torch.zeros(1, 2, 8)):
        with pytest.raises(ValueError, match="does not fit 2 class names; pass one row for each"):
            write_bank(path, rows, ["sky", "road"], "random")
    assert not path.exists()


def test_orthogonal_vectors_are_at_right_angles_and_of_their_seed() -> None:
    bank = orthogonal_bank(torch.zeros(11, 16), 3)
    torch.testing.assert_close(bank @ bank.T, torch.eye(11))
    assert torch.equal(bank, orthogonal_bank(torch.zeros(11, 16), 3))
    assert not torch.equal(bank, orthogonal_bank(torch.zeros(11, 16), 4))
    with pytest.raises(ValueError, match=r"no \(17, 16\) vectors are at right angles"):
        orthogonal_bank(torch.zeros(17, 16), 0)


def test_camvid_is_covered_by_distinct_rows(text: NamedText) -> None:
    coverage = clip_coverage(vocabulary("camvid"), text)
    assert coverage.exact == ("road", "pavement", "tree", "fence", "car")
    assert set(coverage.same_thing) == {"sky", "building"}
    assert set(coverage.only_near) == {"pole", "sign symbol", "pedestrian", "bicyclist"}
    assert not coverage.missing
    bank = clip_bank(vocabulary("camvid"), text)
    assert bank.dtype == torch.float32
    torch.testing.assert_close(bank.norm(dim=1), torch.ones(len(vocabulary("camvid"))))
    assert len(bank.unique(dim=0)) == len(vocabulary("camvid"))


@pytest.mark.parametrize("template", ["single", "ensemble"])
def test_each_class_has_the_row_of_its_name(folder: Path, template: str) -> None:
    rows = clip_rows()
    expected = rows[[COCO_STUFF.index("tree"), COCO_STUFF.index("sky-other"), COCO_STUFF.index("person")]]
    bank = clip_bank(["tree", "sky", "pedestrian"], load_named_text(folder, template=template))
    torch.testing.assert_close(bank, expected / expected.norm(dim=1, keepdim=True))


def test_the_template_says_which_file(folder: Path) -> None:
    (folder / CLIP_BANK_FILE.format(template="ensemble")).unlink()
    assert load_named_text(folder, template="single").embeddings.shape == (13, 16)
    with pytest.raises(FileNotFoundError, match="ensemble"):
        load_named_text(folder)


def test_classes_with_no_name_near_are_named(text: NamedText) -> None:
    classes = ["tie", "purse", "blazer", "romper"]
    coverage = clip_coverage(classes, text)
    assert coverage.exact == ("tie",) and coverage.same_thing == {"purse": "handbag"}
    assert coverage.missing == ("blazer", "romper")
    with pytest.raises(ValueError, match=r"none for 2 of 4 classes \(blazer, romper\); take a data set"):
        clip_bank(classes, text)


def test_classes_that_would_share_a_row_are_refused(text: NamedText) -> None:
    with pytest.raises(ValueError, match="the classes person, pedestrian would share an embedding"):
        clip_bank(["person", "tree", "pedestrian"], text)


def test_files_that_do_not_fit_each_other_are_refused(folder: Path) -> None:
    np.save(folder / CLIP_BANK_FILE.format(template="single"), np.ones((4, 16), np.float16))
    with pytest.raises(ValueError, match=r"shape \(4, 16\) for 13 names"):
        load_named_text(folder, template="single")


def test_a_file_without_names_is_refused(tmp_path: Path) -> None:
    save_file({"text_embeddings": torch.eye(2)}, tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match='which names it is of: it needs JSON in its metadata "class_names"'):
        load_named_text(tmp_path / "text.safetensors")


def test_files_of_one_model_are_joined_and_the_first_one_says_what_both_know(text: NamedText, tmp_path: Path) -> None:
    other = torch.cat([clip_rows()[:2] + 0.1, torch.ones(1, 16)])
    more = load_named_text(written(tmp_path / "more.safetensors", ["person", "bicycle", "sheep"], other))
    both = joined([text, more])
    assert both.names == (*COCO_STUFF, "sheep")
    assert torch.equal(both.embeddings[:13], text.embeddings)
    torch.testing.assert_close(both.of(["sheep"]), torch.full((1, 16), 0.25))


@pytest.mark.parametrize(
    ("names", "rows", "said"),
    [
        (["person", "car"], torch.ones(2, 16), "the 2 names that two files share have a mean cosine of"),
        (["sheep"], torch.ones(1, 16), "files that share no name cannot be seen to be of one CLIP model"),
        (["person"], torch.ones(1, 8), "embeddings of 16 and 8 numbers are of different CLIP models"),
    ],
)
def test_files_of_different_models_are_not_joined(
    text: NamedText, tmp_path: Path, names: list[str], rows: Tensor, said: str
) -> None:
    other = load_named_text(written(tmp_path / "other.safetensors", names, rows))
    with pytest.raises(ValueError, match=said):
        joined([text, other])


def test_every_near_name_has_an_own_one() -> None:
    """No class of a data set goes by another class's name, whichever of the names there are."""
    for table in (SAME_THING, ONLY_NEAR):
        assert all(names and name not in names for name, names in table.items())
    for of in ("camvid", "coco_stuff"):
        text = NamedText(tuple(vocabulary("coco_stuff")), torch.eye(171))
        assert len(clip_bank(vocabulary(of), text).unique(dim=0)) == len(vocabulary(of))


def test_the_program_writes_a_bank(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes, output = tmp_path / "classes.txt", tmp_path / "new" / "clip.safetensors"
    classes.write_text("sky\ncar\n")
    text_sources.main(["--clip_text", str(folder), "--classes", str(classes), "--output", str(output)])
    torch.testing.assert_close(
        load_text_bank(output, ["sky", "car"]), clip_bank(["sky", "car"], load_named_text(folder))
    )
    classes.write_text("sky\nskin\n")
    options = ["--clip_text", str(folder), "--classes", str(classes), "--output", str(output)]
    assert "skin" in failure(text_sources.main, options, capsys)
