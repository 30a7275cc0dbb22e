from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from mtaclip_plugin.text import EmbeddingBank, check_class_names, load_embeddings
from mtaclip_plugin.text.bank import check_bank_shape


def test_a_full_bank_is_given_back_and_a_short_one_learns_none() -> None:
    full = torch.randn(2, 4, 8)
    assert torch.equal(EmbeddingBank((2, 4, 8), full)(), full)
    bank = EmbeddingBank((3, 8), full[0, :3])
    assert torch.equal(bank()[0, :3], full[0, :3])
    assert bank().shape == (1, 4, 8)
    assert [name for name, _ in bank.named_parameters()] == ["none_embedding"]
    bank().sum().backward()
    assert bank.none_embedding is not None and bank.none_embedding.grad.any()


def test_a_bank_is_a_copy_that_trains_and_loads() -> None:
    with torch.inference_mode():
        given = torch.randn(1, 4, 8)
    bank = EmbeddingBank((3, 4, 8), given.expand(3, 4, 8))
    weight = torch.ones(8, requires_grad=True)
    (bank() * weight).sum().backward()
    assert weight.grad is not None
    bank.load_state_dict({"embeddings": torch.zeros(3, 4, 8)})
    assert given.any() and not bank().any()


def test_shapes_that_do_not_suit_the_classes() -> None:
    for shape in [(4, 8), (2, 3, 8), (8,)]:
        with pytest.raises(ValueError, match=r"for 3 classes; expected \(K, T\) = \(3, T\)"):
            check_bank_shape(shape, 3)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_files(tmp_path: Path, suffix: str) -> None:
    values = torch.randn(3, 8)
    path = tmp_path / f"bank{suffix}"
    if suffix == ".npy":
        np.save(path, values.half().numpy())
    else:
        safetensors.torch.save_file({"bank": values.half()}, path)
    assert torch.equal(load_embeddings(path), values.half().float())
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match="no readable file of text embeddings"):
        load_embeddings(path)


def test_no_code_is_run_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bank.npy"
    np.save(path, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="no readable file"):
        load_embeddings(path)


def test_missing_file_and_bad_values() -> None:
    with pytest.raises(FileNotFoundError, match=r"no text embeddings at 'nowhere.npy'"):
        load_embeddings("nowhere.npy")
    with pytest.raises(ValueError, match=r"must be finite numbers in float32, but some are infinite or NaN"):
        load_embeddings(torch.tensor([[1.0, float("nan")]]))
    for wrong, kind in ((torch.ones(2, 2, dtype=torch.int64), r"torch\.int64"), ([[1.0, 2.0]], "list")):
        with pytest.raises(ValueError, match=f"must be a tensor or an array of floating-point numbers, got {kind}"):
            load_embeddings(wrong)  # type: ignore[arg-type]


def test_class_names() -> None:
    assert check_class_names(None, 1) == ["foreground"]
    assert check_class_names(("a", "b"), 2) == ["a", "b"]
    for names, count, message in [
        (None, 3, "needs the names of the 3 classes"),
        (["a", "b"], 3, "2 class names for 3 classes"),
        (["a", "b", "a"], 3, "'a' appears twice"),
        (["a", " ", "c"], 3, "must be words"),
        (["a", "none", "c"], 3, "can not be called 'none'"),
        (["a", " None ", "c"], 3, "can not be called ' None '"),
        (["sky", "road", "Sky"], 3, "'sky' and 'Sky' differ in capitals or white space alone"),
        (["traffic light", "traffic  light"], 2, "'traffic light' and 'traffic  light' differ in"),
        (["stra\u00dfe", "STRASSE"], 2, "differ in capitals"),
        ("abc", 3, "single string 'abc'"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_class_names(names, count)
