from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from trainers.data.shapes import CLASS_NAMES
from trainers.text.text_bank import BANKS, load_text_bank


def test_the_bank_of_shapes_is_of_unit_norm_and_composes() -> None:
    text = load_text_bank(BANKS["shapes"], CLASS_NAMES)
    assert text.shape == (len(CLASS_NAMES), 384) and text.dtype == torch.float32
    assert torch.allclose(text.norm(dim=1), torch.ones(len(CLASS_NAMES)), atol=1e-5)
    row = {name: text[i] for i, name in enumerate(CLASS_NAMES)}
    near, far = row["red circle"] @ row["red square"], row["red circle"] @ row["striped blue square"]
    assert near > far + 0.1
    assert row["yellow star"] @ row["dotted yellow star"] > row["yellow star"] @ row["red square"] + 0.1


def test_rows_are_found_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    save_file({"text_embeddings": torch.eye(3)}, path, metadata={"class_names": '["cat", "dog", "Blue Jay"]'})
    assert torch.equal(load_text_bank(path, ["cat", "dog", "Blue Jay"]), torch.eye(3))
    assert load_text_bank(path, ["blue jay", "cat"]).tolist() == [[0, 0, 1], [1, 0, 0]]
    with pytest.raises(ValueError, match=r"has no text of cow; make a bank of all names with python -m"):
        load_text_bank(path, ["dog", "cow"])


def test_none_stays_last_of_a_bank_of_prompts(tmp_path: Path) -> None:
    path, bank = tmp_path / "bank.safetensors", torch.rand(2, 3, 5)
    save_file({"text_embeddings": bank}, path, metadata={"class_names": '["cat", "dog"]'})
    assert torch.equal(load_text_bank(path, ["dog", "cat"]), bank[:, [1, 0, 2]])
    assert torch.equal(load_text_bank(path, ["dog"]), bank[:, [1, 2]])


def test_a_bank_that_names_no_classes_is_taken(tmp_path: Path) -> None:
    save_file({"bank": torch.eye(2)}, tmp_path / "bank.safetensors")
    np.save(tmp_path / "bank.npy", np.eye(2))
    for name in ("bank.safetensors", "bank.npy"):
        assert torch.equal(load_text_bank(tmp_path / name, ["a", "b"]), torch.eye(2))
