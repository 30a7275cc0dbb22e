"""Files from a stranger: whatever they hold, none of it is run."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from safetensors.torch import save_file

from mtaclip_plugin import load_mask2former
from mtaclip_plugin.text import TextTower, load_embeddings
from tests.conftest import TOWERS
from tests.test_model import build
from trainers.data.reading import read_image
from trainers.foundation.errors import UserError
from trainers.options.config import Config
from trainers.options.parsing import config_from_yaml, config_to_yaml
from trainers.run.checkpoints import load_checkpoint
from trainers.text.text_bank import load_text_bank


class Payload:
    """What makes a file when it is unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def as_pickle(payload: Payload) -> bytes:
    return pickle.dumps(payload)


def as_torch_file(payload: Payload, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.ones(1), "payload": payload}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def as_old_torch_file(payload: Payload) -> bytes:
    return as_torch_file(payload, zipped=False)


def as_array(payload: Payload) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([payload, None], dtype=object), allow_pickle=True)
    return file.getvalue()


def as_archive(payload: Payload) -> bytes:
    file = io.BytesIO()
    np.savez(file, np.array([payload, None], dtype=object))
    return file.getvalue()


def careless_archive(path: Path) -> None:
    for array in np.load(path, allow_pickle=True).values():
        assert array is not None


FORMS: dict[Callable[[Payload], bytes], Callable[[Path], Any]] = {
    as_pickle: lambda path: pickle.loads(path.read_bytes()),
    as_torch_file: lambda path: torch.load(path, weights_only=False),
    as_old_torch_file: lambda path: torch.load(path, weights_only=False),
    as_array: lambda path: np.load(path, allow_pickle=True),
    as_archive: careless_archive,
}
"""How a payload lies in a file, and who would set it off."""

READERS: dict[str, Callable[[Path], Any]] = {
    "checkpoint": load_checkpoint,
    "text embeddings": load_embeddings,
    "text bank": lambda path: load_text_bank(path, ["sky", "road"]),
    "text tower": lambda path: TextTower("tiny-flat", str(path)),
    "image": read_image,
}


@pytest.mark.parametrize("form", FORMS)
def test_the_payload_is_live(form, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(form(Payload(tmp_path / "marker")))
    FORMS[form](tmp_path / "file")
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".npz", ".bin", ".safetensors", ".png"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_unpickles(reader, form, suffix, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(form(Payload(tmp_path / "marker")))
    with pytest.raises((ValueError, OSError), match="file"):
        READERS[reader](path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_no_folder_of_a_model_is_unpickled(name, tmp_path: Path) -> None:
    model = build(text_encoder=None)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(as_torch_file(Payload(tmp_path / "marker")))
    for read in (smp.from_pretrained, lambda folder: load_mask2former(model, folder)):
        with pytest.raises(Exception, match=r"safetensors|deserializing"):
            read(str(tmp_path))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:pathlib.Path.touch", "!!python/object/new:os.mkdir"])
def test_a_configuration_constructs_nothing(tag, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    text = config_to_yaml(Config()).replace("arch: mtaclip", f"arch: {tag} ['{marker}']")
    with pytest.raises(Exception, match="could not determine a constructor"):
        config_from_yaml(text)
    assert not marker.exists()


def test_a_tokenizer_brings_no_code(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    tower = TOWERS["tiny-flat"]
    text = tower["text_cfg"] | {"hf_tokenizer_name": "any", "tokenizer_kwargs": {"trust_remote_code": True}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": tower | {"text_cfg": text}}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    settings = {"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}, "tokenizer_class": "Tokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "code.py").write_text(
        f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
        "from transformers import PreTrainedTokenizer\nclass Tokenizer(PreTrainedTokenizer): pass\n"
    )
    with pytest.raises(ValueError, match="code"):
        TextTower(f"local-dir:{tmp_path}", None)
    assert not marker.exists()


def test_a_picture_is_no_program(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    Image.new("RGB", (3, 3)).save(path, "EPS")
    with pytest.raises(OSError, match="cannot identify image file"):  # and not that Ghostscript is missing
        read_image(path)


def test_metadata_of_a_bank_is_data(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    for text in ("5", "[1]", '{"a": 1}', "[", "null", '"sky"', '["sky", "sea"]'):
        save_file({"bank": torch.ones(2, 3)}, path, metadata={"class_names": text})
        with pytest.raises(ValueError, match=r"bank\.safetensors (does not say of each|has no text of)"):
            load_text_bank(path, ["sky", "road"])
    save_file({"bank": torch.ones(2, 3)}, path, metadata={"class_names": '["sky", "road"]'})
    assert load_text_bank(path, ["sky", "road"]).shape == (2, 3)


def test_a_checkpoint_with_a_payload_beside_right_values(tmp_path: Path) -> None:
    content = {"config": config_to_yaml(Config()), "model": Payload(tmp_path / "marker")}
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt cannot be read"):
        load_checkpoint(tmp_path / "last.pt")
    assert not (tmp_path / "marker").exists()
