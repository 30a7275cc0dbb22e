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


def test_a_bank_of_other_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    save_file({"text_embeddings": torch.eye(2)}, path, metadata={"class_names": '["cat", "dog"]'})
    assert torch.equal(load_text_bank(path, ["cat", "dog"]), torch.eye(2))
    with pytest.raises(ValueError, match=r'made for the classes \["cat", "dog"\], not for \["dog", "cat"\]'):
        load_text_bank(path, ["dog", "cat"])


def test_a_bank_that_names_no_classes_is_taken(tmp_path: Path) -> None:
    save_file({"bank": torch.eye(2)}, tmp_path / "bank.safetensors")
    np.save(tmp_path / "bank.npy", np.eye(2))
    for name in ("bank.safetensors", "bank.npy"):
        assert torch.equal(load_text_bank(tmp_path / name, ["a", "b"]), torch.eye(2))
