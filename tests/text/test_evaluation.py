"""The text that evaluation uses is that of what the model holds, whatever changed its weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from timm.utils import ModelEmaV2, ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

import mtaclip_plugin as mta
from tests import test_model

TEXTS: dict[str, dict[str, Any]] = {
    "tower": {},
    "whole prompts": {"text_encoder": "tiny-bidirectional"},
    "bank": {"text_encoder": "bank", "text_embeddings": torch.randn(2, 4, 24)},
    "short bank": {"text_encoder": "bank", "text_embeddings": torch.randn(3, 24)},
}


def build(**options: Any) -> mta.MTACLIP:
    return test_model.build(**{"encoder_name": "tu-test_resnet", "decoder_layers": 1} | options)


Average = Callable[[], mta.MTACLIP]
Start = Callable[[mta.MTACLIP], tuple[Callable[[], None], Average]]
"""Begins to average a model; gives what to call after each step, and the average as it then is."""


def ignite(handle_buffers: str) -> Start:
    def start(model: mta.MTACLIP) -> tuple[Callable[[], None], Average]:
        engine, handler = Engine(lambda *_: None), EMAHandler(model, momentum=0.3, handle_buffers=handle_buffers)
        handler.attach(engine)
        return lambda: handler._update_ema_model(engine, "ema_momentum"), lambda: handler.ema_model.eval()

    return start


def swa(**options: Any) -> Start:
    def start(model: mta.MTACLIP) -> tuple[Callable[[], None], Average]:
        averaged = AveragedModel(model, **options)
        return lambda: averaged.update_parameters(model), lambda: averaged.eval().module

    return start


def timm(kind: type[nn.Module]) -> Start:
    def start(model: mta.MTACLIP) -> tuple[Callable[[], None], Average]:
        averaged = kind(model, decay=0.7)
        return lambda: averaged.update(model), lambda: averaged.module

    return start


AVERAGES: dict[str, Start] = {
    "ignite, copy": ignite("copy"),
    "ignite, update": ignite("update"),
    "ignite, ema_train": ignite("ema_train"),
    "swa": swa(),
    "swa with buffers": swa(use_buffers=True, avg_fn=get_ema_avg_fn(0.9)),
    "ema with buffers": swa(use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    "timm 2": timm(ModelEmaV2),
    "timm 3": timm(ModelEmaV3),
}


@torch.no_grad()
def walk(model: mta.MTACLIP, after_step: Callable[[], None] = lambda: None) -> None:
    """Steps as training makes them, but of any direction: of all weights, and of the norms' statistics."""
    for _ in range(3):
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor), alpha=0.3 if name.startswith("prompts") else 0.01)
        after_step()


def restored(model: mta.MTACLIP, **options: Any) -> mta.MTACLIP:
    """The oracle: a new model with the weights that this one holds."""
    new = build(**options)
    new.load_state_dict(copy.deepcopy(model.state_dict()))
    return new.eval()


@torch.no_grad()
def text_logits(model: mta.MTACLIP) -> Tensor:
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return model(image, return_masks=True).text_logits


@pytest.mark.parametrize("text", ["tower", "bank"])
@pytest.mark.parametrize("average", AVERAGES)
def test_an_average_evaluates_as_its_own_checkpoint_does(average: str, text: str) -> None:
    options = TEXTS[text]
    model = build(**options)
    bank = options.get("text_embeddings")
    after_step, averaged = AVERAGES[average](model)
    for _ in range(2):  # the second time, the average has been evaluated before
        walk(model.train(), after_step)
        expected = restored(averaged(), **options)
        assert torch.equal(text_logits(averaged()), text_logits(expected))
        assert torch.equal(averaged().text_embeddings, expected.text_embeddings)
        if bank is not None and average != "timm 2":  # which averages what state_dict() gives, and rounds
            assert torch.equal(averaged().prompts.embeddings, bank)
    assert not torch.equal(text_logits(averaged()), text_logits(model.eval()))


@contextmanager
def swapped(model: mta.MTACLIP, weights: dict[str, Tensor], how: str) -> Iterator[None]:
    """Other weights in the place of the model's, as optimizers and callbacks do it that keep two sets of them."""
    own = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    put_in(model, weights, how)
    yield
    put_in(model, own, how)


@torch.no_grad()
def put_in(model: mta.MTACLIP, weights: dict[str, Tensor], how: str) -> None:
    for name, parameter in model.named_parameters():
        if how == "data":  # which leaves no trace in versions
            parameter.data.copy_(weights[name])
        elif how == "other data":
            parameter.data = weights[name]
        else:
            parameter.lerp_(weights[name], 1.0)


@pytest.mark.parametrize("how", ["data", "other data", "in place"])
@pytest.mark.parametrize("text", ["tower", "short bank"])
def test_weights_swapped_in_evaluation(text: str, how: str) -> None:
    model = build(**TEXTS[text]).eval()
    other = copy.deepcopy(model)
    walk(other)
    before = text_logits(model)
    with swapped(model, dict(other.named_parameters()), how):
        expected = restored(model, **TEXTS[text])
        assert torch.equal(text_logits(model), text_logits(expected))
        assert torch.equal(model.text_embeddings, expected.text_embeddings)
        assert not torch.equal(text_logits(model), before)
    assert torch.equal(text_logits(model), before)


def test_a_mode_that_was_set_without_eval() -> None:
    """As Lightning restores modes after its sanity check."""
    model = build()
    for module in model.modules():
        module.training = False
    assert torch.equal(text_logits(model), text_logits(restored(model)))


def test_nothing_of_the_text_is_a_buffer() -> None:
    for options in TEXTS.values():
        model = build(**options).eval()
        assert not list(model.prompts.buffers()) and not [name for name, _ in model.named_buffers() if "text" in name]


@pytest.mark.parametrize("kind", ["bank", "short bank"])
def test_a_bank_is_saved_and_loaded_as_a_buffer(kind: str) -> None:
    model, other = build(**TEXTS[kind]), build(**TEXTS[kind] | {"text_embeddings": torch.zeros(2, 4, 24)})
    if kind == "short bank":
        other = build(**TEXTS[kind] | {"text_embeddings": torch.zeros(3, 24)})
    state = model.state_dict()
    assert torch.equal(state["prompts.embeddings"], TEXTS[kind]["text_embeddings"])
    assert not other.prompts.embeddings.any()
    assert other.load_state_dict(state, assign=True) == ([], [])
    assert torch.equal(other.prompts.embeddings, model.prompts.embeddings)
    for broken, message in (({}, "Missing key"), ({"prompts.embeddings": torch.ones(5, 2)}, "size mismatch")):
        left = {name: value for name, value in state.items() if name != "prompts.embeddings"}
        with pytest.raises(RuntimeError, match=rf"{message}.*prompts.embeddings"):
            nn.Module.load_state_dict(other, left | broken)
    assert torch.equal(other.prompts.embeddings, model.prompts.embeddings)


@pytest.mark.parametrize("text", ["tower", "short bank"])
def test_one_graph_for_all_texts(text: str) -> None:
    model = build(pixel_decoder="fpn", **TEXTS[text]).eval()
    torch.compiler.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    image = torch.randn(2, 3, 64, 96)
    for number in range(3):
        with torch.no_grad():
            torch.testing.assert_close(compiled(image), model(image), atol=1e-5, rtol=1e-5)
            next(model.prompts.parameters()).normal_()
        model.train(number == 1).eval()
    assert len(graphs) == 1


def test_a_graph_of_a_model_that_never_encoded_its_prompts() -> None:
    model = build(pixel_decoder="fpn")
    for module in model.modules():
        module.training = False
    torch.compiler.reset()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")(image)
        torch.testing.assert_close(compiled, model(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("evaluated", [True, False])
def test_memory_without_values_and_back(text: str, evaluated: bool) -> None:
    """A move to "meta" loses what a checkpoint brings back, and nothing else."""
    model = build(**TEXTS[text])
    state = copy.deepcopy(model.state_dict())
    expected = text_logits(restored(model, **TEXTS[text]))
    if evaluated:
        model.eval()
    model.to("meta").eval().to_empty(device="cpu").load_state_dict(state)
    assert torch.equal(text_logits(model), expected)


def test_training_in_evaluation_mode_is_said_once_and_at_its_line() -> None:
    model = build().eval()
    image = torch.randn(2, 3, 32, 32)
    with pytest.warns(UserWarning, match=r"prompts learn nothing.*call model\.train\(\)") as caught:
        nn.Sequential(model)(image)
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(image)


def test_nothing_is_said_where_no_prompt_would_learn() -> None:
    image = torch.randn(2, 3, 32, 32)
    frozen = build().eval()
    frozen.prompts.contexts.requires_grad_(False)
    others = [frozen, build(**TEXTS["short bank"]).eval(), build(text_encoder=None).eval(), build().train()]
    model = build().eval()
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*prompts learn nothing")
        for other in others:
            other(image)
        model.predict(image)
        model.predict_labels(image)
        with torch.no_grad():
            model(image)
        compiled = torch.compile(build(pixel_decoder="fpn").eval(), fullgraph=True, backend="eager")
        assert compiled(image).requires_grad
