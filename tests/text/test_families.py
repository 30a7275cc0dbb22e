"""Every family of open_clip's text towers: its own shipped configuration, made small, around a local tokenizer."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor
from transformers import (
    M2M100Config,
    MT5Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from mtaclip_plugin.text import PromptLearner, TextTower, prompts
from mtaclip_plugin.text.clip import create_clip
from tests.text import tokenizers

NAMES = ["cat", "traffic light", "the box"]


@dataclass(frozen=True)
class Family:
    """How a family of text towers differs from CLIP's, and what stands in for its parts on the hub.

    Args:
        config: name of the open_clip configuration.
        around: tokens that the tokenizer puts around a text.
        shares: whether the prefix is shared: in a causal tower that pools a token by its id.
        tokenizer: makes the tokenizer; ``None`` is open_clip's own.
        model: makes the configuration of a tower of ``transformers`` from the number of tokens.
        text: changes to ``text_cfg`` that make it a variant which open_clip ships no configuration of.
    """

    config: str
    around: int = 2
    shares: bool = True
    tokenizer: Callable[[], PreTrainedTokenizerFast] | None = None
    model: Callable[[int], PretrainedConfig] | None = None
    text: tuple[tuple[str, Any], ...] = ()


_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def _xlm_roberta(tokens: int) -> PretrainedConfig:
    return XLMRobertaConfig(vocab_size=tokens, max_position_embeddings=514, type_vocab_size=1, **_ENCODER)


def _roberta(tokens: int) -> PretrainedConfig:
    return RobertaConfig(vocab_size=tokens, max_position_embeddings=514, type_vocab_size=1, **_ENCODER)


def _mt5(tokens: int) -> PretrainedConfig:
    return MT5Config(vocab_size=tokens, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2)


def _nllb(tokens: int) -> PretrainedConfig:
    small = {f"{side}_{part}": 2 for side in ("encoder", "decoder") for part in ("layers", "attention_heads")}
    return M2M100Config(
        vocab_size=tokens, d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64, scale_embedding=True, **small
    )


FAMILIES = {
    "OpenAI ViT": Family("ViT-B-32-quickgelu"),
    "OpenAI ResNet": Family("RN50"),
    "LAION ViT": Family("ViT-H-14"),
    "LAION ConvNeXt": Family("convnext_base_w"),
    "EVA": Family("EVA02-B-16"),
    "ViTamin": Family("ViTamin-B"),
    "Perception Encoder": Family("PE-Core-B-16"),
    "MobileCLIP bidirectional": Family("MobileCLIP-S1", shares=False),
    "MobileCLIP causal": Family("MobileCLIP-B"),
    "CoCa": Family("coca_ViT-B-32", shares=False),
    "CLIPA": Family("ViT-L-14-CLIPA", shares=False, tokenizer=tokenizers.bert),
    "CLIPS": Family(
        "ViT-L-14-CLIPA",
        around=3,
        shares=False,
        tokenizer=tokenizers.bert_between_its_own_tokens,
        text=(("tokenizer_mode", "clips"), ("tokenizer_kwargs", {})),
    ),
    "SigLIP": Family("ViT-B-16-SigLIP", around=1, shares=False, tokenizer=tokenizers.t5_padded_with_its_end),
    "SigLIP i18n": Family(
        "ViT-SO400M-16-SigLIP-i18n-256", around=1, shares=False, tokenizer=tokenizers.t5_padded_with_its_end
    ),
    "SigLIP 2": Family("ViT-B-16-SigLIP2", around=1, shares=False, tokenizer=tokenizers.gemma),
    "worldwide mT5": Family("ViT-L-14-worldwide", around=1, tokenizer=tokenizers.t5),
    "worldwide XLM-V": Family("ViT-H-14-worldwide-quickgelu", tokenizer=tokenizers.xlm_roberta),
    "XLM-R": Family("xlm-roberta-base-ViT-B-32", shares=False, tokenizer=tokenizers.xlm_roberta, model=_xlm_roberta),
    "RoBERTa": Family("roberta-ViT-B-32", shares=False, tokenizer=tokenizers.roberta, model=_roberta),
    "RoBERTa CoCa": Family("coca_roberta-ViT-B-32", shares=False, tokenizer=tokenizers.roberta, model=_roberta),
    "mT5": Family("mt5-base-ViT-B-32", around=1, shares=False, tokenizer=tokenizers.t5, model=_mt5),
    "NLLB": Family("nllb-clip-base", shares=False, tokenizer=tokenizers.nllb, model=_nllb),
    "NLLB SigLIP": Family("nllb-clip-base-siglip", shares=False, tokenizer=tokenizers.nllb, model=_nllb),
}
UNREACHABLE = {"tokenizer": "ViT-B-16-SigLIP", "model": "roberta-ViT-B-32"}

every_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module", autouse=True)
def _small_families(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("families")
    for name, family in FAMILIES.items():
        hub = None if family.tokenizer is None else tmp_path_factory.mktemp("hub")
        (folder / f"{name}.json").write_text(json.dumps(_small(family, hub)))
    for name, config in UNREACHABLE.items():
        (folder / f"unreachable {name}.json").write_text(json.dumps(_small(Family(config), None)))
    open_clip.add_model_config(folder)


def _small(family: Family, hub: Path | None) -> dict[str, Any]:
    """The family's configuration with fewer and narrower layers and, for all that lies on the hub, a local folder."""
    config = open_clip.get_model_config(family.config)
    text = config["text_cfg"]
    text |= dict(family.text)
    config["embed_dim"] = 32 if text.get("proj_type") == "none" else 24
    config["vision_cfg"] = _small_vision(config["vision_cfg"])
    for transformer in (text, config.get("multimodal_cfg", {})):
        transformer |= {"width": 32, "heads": 2, "layers": 2}
    if hub is not None:
        tokenizer = family.tokenizer()
        tokenizer.save_pretrained(hub)
        text |= {"hf_tokenizer_name": str(hub), "vocab_size": len(tokenizer)}
        if family.model is not None:
            family.model(len(tokenizer)).save_pretrained(hub)
            text["hf_model_name"] = str(hub)
    return config


def _small_vision(vision: dict[str, Any]) -> dict[str, Any]:
    size = {"image_size": 32, "width": 16, "head_width": 16, "patch_size": 16}
    if "timm_model_name" in vision:
        return size | {"layers": 1}
    return vision | size | {"layers": [1, 1, 1, 1] if isinstance(vision["layers"], list) else 1}


@functools.cache
def tower_of(name: str) -> TextTower:
    return TextTower(name, None)


def encode_text(tower: TextTower, words: str) -> Tensor:
    """(2, K+1, T) the oracle: open_clip's own embeddings of each name after the words, for two prompts."""
    ids = tower.tokenize([f"{words} {name}" for name in (*NAMES, "none")])
    with torch.no_grad():
        return tower.model.encode_text(ids.repeat(2, 1), normalize=False).unflatten(0, (2, 4))


def put_in(words: str, learner: PromptLearner) -> None:
    """Makes the contexts what the tower itself embeds the words as."""
    length = learner.contexts.shape[1]
    ids = learner.tower.tokenize([f"{words} {NAMES[0]}"])[:, learner.start : learner.start + length]
    with torch.no_grad():
        learner.contexts.copy_(learner.tower.token_embedding(ids).expand_as(learner.contexts))


@pytest.mark.parametrize("words", ["photo", "the bright photo of one"])
@every_family
def test_contexts_that_are_word_embeddings_give_encode_text_to_the_bit(name: str, words: str) -> None:
    tower = tower_of(name)
    learner = PromptLearner(tower, NAMES, num_prompts=2, context_length=len(words.split()), shared_prefix=False)
    put_in(words, learner)
    with torch.no_grad():  # with gradients, torch takes other kernels than the oracle did
        assert torch.equal(learner(), encode_text(tower, words))


@every_family
def test_the_default_way_gives_encode_text_and_the_plain_gradient(name: str) -> None:
    tower, words = tower_of(name), "the bright photo of one"
    learner = PromptLearner(tower, NAMES, num_prompts=2, context_length=5)
    plain = PromptLearner(tower, NAMES, num_prompts=2, context_length=5, shared_prefix=False)
    assert (learner.encoder is not None) == FAMILIES[name].shares
    put_in(words, learner)
    plain.contexts.data.copy_(learner.contexts.data)
    embeddings = learner()
    expected = encode_text(tower, words)
    torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)
    weights = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((embeddings * weights).sum(), learner.contexts)
    (plain_gradient,) = torch.autograd.grad((plain() * weights).sum(), plain.contexts)
    assert (gradient - plain_gradient).norm() <= 1e-5 * plain_gradient.norm()


@every_family
def test_a_compiler_makes_one_graph_of_it(name: str) -> None:
    learner = PromptLearner(tower_of(name), NAMES, num_prompts=2, context_length=3)
    torch.compiler.reset()
    embeddings = torch.compile(learner, fullgraph=True, backend="eager")()
    assert embeddings.requires_grad and torch.equal(embeddings, learner())


@every_family
def test_only_the_contexts_are_trained_and_saved(name: str) -> None:
    learner = PromptLearner(tower_of(name), NAMES, num_prompts=2, context_length=3)
    learner().square().sum().backward()
    assert [name for name, _ in learner.named_parameters()] == list(learner.state_dict()) == ["contexts"]
    assert learner.contexts.grad.isfinite().all()
    assert learner.contexts.grad.any(-1).all()
    assert all(p.grad is None and not p.requires_grad for p in learner.tower.model.parameters())
    assert not learner.train().tower.model.training


@every_family
def test_a_name_that_just_fits_is_taken_and_one_token_more_refused(name: str) -> None:
    tower = tower_of(name)
    words = tower.context_length - FAMILIES[name].around - 4
    fits = " ".join(["cat"] * words)
    learner = PromptLearner(tower, ["box", fits], context_length=4)
    cat = PromptLearner(tower, ["cat"], context_length=4).ids[0, learner.start + 4]
    assert (learner.ids[1] == cat).sum() == words
    for too_long in (fits + " cat", fits + " box", fits + " cat" * 40):
        with pytest.raises(ValueError, match=f"class name '{too_long}' after 4 .* the {tower.context_length} tokens"):
            PromptLearner(tower, ["box", too_long], context_length=4)


@pytest.mark.parametrize("length", [1, 3])
def test_a_placeholder_of_several_tokens_is_refused(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "PLACEHOLDER", "x")
    with pytest.raises(ValueError, match=r"tokenizer of 'SigLIP' does not read 'x' as one token.*text_encoder='bank'"):
        PromptLearner(tower_of("SigLIP"), NAMES, context_length=length)


@every_family
def test_a_file_of_other_weights_is_named(name: str, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    torch.save({"weight": torch.ones(2)}, other)
    with pytest.raises(ValueError, match=f"'{other}' holds no weights of text encoder '{name}'"):
        TextTower(name, str(other))


@pytest.mark.parametrize("weights", [None, "weights.pt"])
@pytest.mark.parametrize("part", UNREACHABLE)
def test_a_part_on_the_hub_that_is_out_of_reach_is_one_sentence(part: str, weights: str | None, tmp_path: Path) -> None:
    if weights is not None:
        weights = str(tmp_path / weights)
        torch.save(create_clip("unreachable tokenizer", None).state_dict(), weights)
    with pytest.raises(
        ConnectionError,
        match=f"^text encoder 'unreachable {part}' with weights '{weights}' could not be fetched .*='bank'$",
    ):
        TextTower(f"unreachable {part}", weights)
