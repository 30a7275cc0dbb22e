from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from mtaclip_plugin.text import PromptLearner, TextTower
from tests.conftest import TOWERS


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("name", TOWERS)
def test_contexts_that_are_word_embeddings_give_encode_text_to_the_bit(name: str, length: int) -> None:
    tower = TextTower(name, None)
    words = "a bright photo of one" if length == 5 else "a"
    names = ["cat", "traffic light", "x box"]
    learner = PromptLearner(tower, names, num_prompts=2, context_length=length, shared_prefix=False)
    ids = tower.tokenize([f"{words} {name}" for name in (*names, "none")])
    with torch.no_grad():
        words_ids = ids[0, learner.start : learner.start + length]
        learner.contexts.copy_(tower.token_embedding.weight[words_ids].expand(2, -1, -1))
        expected = tower.model.encode_text(ids.repeat(2, 1), normalize=False).unflatten(0, (2, 4))
        assert torch.equal(learner(), expected)


def test_only_the_contexts_are_trained_and_saved() -> None:
    learner = PromptLearner(TextTower("tiny-flat", None), ["cat", "dog"], num_prompts=3, context_length=4)
    learner().square().sum().backward()
    assert [name for name, _ in learner.named_parameters()] == ["contexts"]
    assert list(learner.state_dict()) == ["contexts"]
    assert learner.contexts.grad.flatten(1).any(1).all()
    assert all(p.grad is None and not p.requires_grad for p in learner.tower.model.parameters())
    assert not learner.train().tower.model.training


def test_prompts_differ_and_classes_are_independent() -> None:
    learner = PromptLearner(TextTower("tiny-flat", None), ["cat", "dog", "bird"], num_prompts=2, context_length=4)
    embeddings = learner()
    assert embeddings.shape == (2, 4, 24)
    assert not torch.allclose(embeddings[0], embeddings[1])
    (gradient,) = torch.autograd.grad(embeddings[1].sum(), learner.contexts)
    assert gradient[1].any() and not gradient[0].any()


def test_random_tower_is_the_same_everywhere_and_leaves_the_seed_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = TextTower("tiny-flat", None)
    assert torch.equal(torch.rand(2), expected)
    torch.manual_seed(99)
    second = TextTower("tiny-flat", None)
    assert all(map(torch.equal, first.model.parameters(), second.model.parameters()))


def test_building_a_tower_leaves_the_seeds_of_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail(f"GPUs were seeded with {seed}"))
    TextTower("tiny-flat", None)


def test_contexts_stay_float32_under_autocast() -> None:
    learner = PromptLearner(TextTower("tiny-flat", None), ["cat"], num_prompts=1, context_length=2)
    with torch.autocast("cpu", torch.bfloat16):
        learner().sum().backward()
    assert learner.contexts.dtype == learner.contexts.grad.dtype == torch.float32


def test_moving_the_learner_moves_the_tower() -> None:
    learner = PromptLearner(TextTower("tiny-flat", None), ["cat"], num_prompts=1, context_length=2).double()
    assert learner().dtype == torch.float64


def test_a_copy_and_a_tower_that_failed_take_no_contexts_from_before() -> None:
    learner = PromptLearner(TextTower("tiny-flat", None), ["cat"], num_prompts=1, context_length=2, shared_prefix=False)
    other = copy.deepcopy(learner)
    expected = learner().detach()
    with pytest.raises(RuntimeError, match="size"):
        learner.tower.encode(learner.ids[:, :5], learner.contexts.expand(2, -1, -1), learner.start)
    assert learner.tower._contexts.tensor is None
    with torch.no_grad():
        learner.contexts.zero_()
    assert torch.equal(other(), expected) and not torch.equal(learner(), expected)


def test_attention_in_bfloat16_on_a_cpu_is_not_the_fused_one() -> None:
    learner = PromptLearner(TextTower("tiny-bidirectional", None), ["cat"], num_prompts=1, context_length=2)
    with torch.profiler.profile() as profile, torch.autocast("cpu", torch.bfloat16):
        learner().sum().backward()
    operations = {event.key for event in profile.key_averages()}
    assert "aten::scaled_dot_product_attention" in operations
    assert not any("flash" in name for name in operations)


def test_too_long_a_name_is_named() -> None:
    endless = "very " * 40 + "long name"
    with pytest.raises(ValueError, match=r"class name 'very very .* long name' after 8 .* the 32 tokens.*shorten"):
        PromptLearner(TextTower("tiny-flat", None), ["cat", endless])


def test_a_name_that_just_fits_is_taken() -> None:
    tower = TextTower("tiny-flat", None)
    fits = " ".join(["cat"] * (32 - 2 - 4))
    PromptLearner(tower, [fits], context_length=4)
    with pytest.raises(ValueError, match="longer than"):
        PromptLearner(tower, [fits + " cat"], context_length=4)


def test_unknown_names_and_tags() -> None:
    with pytest.raises(ValueError, match=r"no text encoder 'ViT-B16'.*did you mean 'ViT-B-16"):
        TextTower("ViT-B16", None)
    with pytest.raises(ValueError, match=r"'opnai' is neither a file nor a tag of 'RN50'.*'openai'"):
        TextTower("RN50", "opnai")


def test_no_network_is_one_sentence() -> None:
    with pytest.raises(
        ConnectionError, match=r"'RN50' with weights 'openai' could not be fetched.*text_encoder='bank'"
    ):
        TextTower("RN50", "openai")


def test_what_a_hub_says_at_length_is_cut_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*inputs: object, **options: object) -> None:
        raise OSError("cannot be reached " * 40)

    monkeypatch.setattr("mtaclip_plugin.text.clip.open_clip.create_model", fail)
    with pytest.raises(
        ConnectionError, match=r"\(cannot be reached [a-z ]{150,200} (cannot|be|reached) \.\.\.\); connect"
    ):
        TextTower("RN50", "openai")


def test_a_file_that_holds_no_weights_is_named(tmp_path: Path) -> None:
    garbage, other = tmp_path / "garbage.pt", tmp_path / "other.pt"
    garbage.write_bytes(b"no weights")
    torch.save({"weight": torch.ones(2)}, other)
    for path in (garbage, other):
        with pytest.raises(ValueError, match=f"'{path}' holds no weights of text encoder 'tiny-flat'"):
            TextTower("tiny-flat", str(path))
