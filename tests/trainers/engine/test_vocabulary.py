from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from mtaclip_plugin import MTACLIP
from tests.test_model import NAMES, build
from trainers.engine.vocabulary import Vocabulary

ALL = ("zebra", *NAMES, "road")
TEXT: dict[str, dict[str, Any]] = {
    "tower": {"clip_masks": "crop", "clip_masks_pretrained": None},
    "bank": {"text_encoder": "bank", "text_embeddings": torch.randn(2, len(NAMES) + 1, 24)},
    "short bank": {"text_encoder": "bank", "text_embeddings": torch.randn(len(NAMES), 24)},
}


def vocabulary_for(model: MTACLIP) -> Vocabulary:
    """With other text of the names that the model has than its own, so that it matters whose is taken."""
    shape = (len(ALL), 24) if model.prompts.num_prompts == 1 else (2, len(ALL) + 1, 24)
    bank = torch.randn(shape) if model.config["text_encoder"] == "bank" else None
    return Vocabulary(ALL, unseen=("zebra", "road"), bank=bank)


@pytest.mark.parametrize("text", TEXT)
@pytest.mark.parametrize("training", [True, False])
def test_a_twin_shares_the_encoder_and_leaves_the_model_alone(text: str, training: bool) -> None:
    model, image = build(**TEXT[text]).train(training), torch.randn(2, 3, 64, 64)
    vocabulary = vocabulary_for(model)
    state, config = {name: tensor.clone() for name, tensor in model.state_dict().items()}, copy.deepcopy(model.config)
    parameters, random_state = dict(model.named_parameters()), torch.get_rng_state()

    twin = vocabulary.named(model, ALL)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert twin.class_names == list(ALL) and twin.untrained_names == ("zebra", "road") and not twin.training
    shared = {name for name, parameter in twin.named_parameters() if parameter is parameters.get(name)}
    assert shared == {name for name in parameters if name.startswith("encoder.")}
    if text == "tower":
        assert twin.prompts.tower is model.prompts.tower and twin._clip_masks is model._clip_masks
    assert twin(image).shape == (2, len(ALL), 64, 64)

    assert model.training is training and model.class_names == NAMES and model.config == config
    assert all(parameters[name] is parameter for name, parameter in model.named_parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model(image).shape == (2, len(NAMES), 64, 64)


@pytest.mark.parametrize("text", TEXT)
def test_a_twin_is_what_a_copy_with_these_names_would_be(text: str) -> None:
    model, image = build(**TEXT[text]), torch.randn(1, 3, 64, 64)
    vocabulary = vocabulary_for(model)
    twin, other = vocabulary.named(model, ALL[::2]), copy.deepcopy(model).eval()
    if vocabulary.bank is None:
        other.set_class_names(ALL[::2])
    else:
        rows = [*range(0, len(ALL), 2)]
        short = vocabulary.bank.ndim == 2
        bank = vocabulary.bank[rows] if short else torch.cat([vocabulary.bank[:, rows], vocabulary.bank[:, -1:]], 1)
        other.set_text_embeddings(bank, ALL[::2])
    assert torch.equal(twin(image), other(image))


def test_unseen_classes_by_their_ids() -> None:
    vocabulary = Vocabulary(("sky", "sheep", "road", "sofa"), unseen=("sheep", "sofa"))
    assert vocabulary.seen == ("sky", "road") and vocabulary.unseen_ids == (1, 3)
    assert vocabulary.text_of(("sky",)) is None
