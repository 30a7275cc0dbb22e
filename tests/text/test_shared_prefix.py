from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import mtaclip_plugin as mta
from mtaclip_plugin.text import PromptLearner, TextTower
from mtaclip_plugin.text.exchange import prompts_for

NAMES = ["cat", "traffic light", "wooden chest of drawers", "x"]


def learners(name: str, *, length: int = 4) -> tuple[PromptLearner, PromptLearner]:
    """The same contexts on the same tower: with a shared prefix, and the plain way."""
    tower = TextTower(name, None)
    shared = PromptLearner(tower, NAMES, num_prompts=2, context_length=length)
    plain = PromptLearner(tower, NAMES, num_prompts=2, context_length=length, shared_prefix=False)
    plain.contexts.data.copy_(shared.contexts.data)
    return shared.double(), plain.double()


@pytest.mark.parametrize("length", [1, 4, 11])
@pytest.mark.parametrize("name", ["tiny-flat", "tiny-custom"])
def test_it_is_exact_forward_and_backward(name: str, length: int) -> None:
    shared, plain = learners(name, length=length)
    assert shared.encoder is not None and plain.encoder is None
    embeddings, expected = shared(), plain()
    torch.testing.assert_close(embeddings, expected, atol=1e-12, rtol=1e-12)
    weights = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((embeddings * weights).sum(), shared.contexts)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), plain.contexts)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["tiny-bidirectional", "coca_tiny"])
def test_towers_for_which_it_would_not_be_exact_read_every_prompt_whole(name: str) -> None:
    shared, plain = learners(name)
    assert shared.encoder is None
    assert torch.equal(shared(), plain())


def test_a_mask_that_is_not_causal_is_noticed() -> None:
    tower = TextTower("tiny-flat", None)
    tower.text.attn_mask[0, 1] = 0
    assert PromptLearner(tower, NAMES, context_length=4).encoder is None


def test_it_reads_no_further_than_the_longest_name() -> None:
    shared, _ = learners("tiny-flat")
    words = shared.tower.tokenize(NAMES).argmax(1) - 1  # the end of text has the highest id
    assert shared.encoder.length == 1 + 4 + int(words.max()) + 1 < shared.tower.context_length


def test_it_costs_about_a_third_of_the_shortened_prompts_and_a_fortieth_of_the_padded_ones() -> None:
    names = mta.vocabulary("ade20k")
    tower = TextTower("tiny-wide", None)
    learner = PromptLearner(tower, names, num_prompts=3, context_length=8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        learner()
    width, layers = tower.width, len(tower.text.transformer.resblocks)
    per_token = 24 * width**2 * layers  # four projections of attention and two of the perceptron, four times as wide
    sequences = 3 * (len(names) + 1)
    assert counter.get_total_flops() < 0.35 * 13 * sequences * per_token
    assert counter.get_total_flops() < 0.06 * 77 * sequences * per_token


def test_it_follows_autocast_and_copies() -> None:
    shared, plain = learners("tiny-flat")
    shared, plain = shared.float(), plain.float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(shared().float(), plain().float(), atol=0.05, rtol=0.05)
    copied = copy.deepcopy(shared)
    assert copied.encoder.tower is copied.tower
    assert torch.equal(copied(), shared())


def test_new_class_names_keep_the_way_that_was_chosen() -> None:
    shared, plain = learners("tiny-flat")
    assert prompts_for(shared, ["dog"]).encoder is not None
    assert prompts_for(plain, ["dog"]).encoder is None
