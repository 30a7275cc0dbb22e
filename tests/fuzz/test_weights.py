"""Folders of a Mask2Former that are damaged, or hold something else."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from mtaclip_plugin import load_mask2former
from mtaclip_plugin.weights.mask2former import _FIXED, _OPTIONS, _their_name
from tests.fuzz.files import damaged
from tests.fuzz.models import build, shared
from tests.fuzz.outcomes import outcome

DECODER = {"pixel_decoder": "deformable"}


@cache
def weights() -> dict[str, torch.Tensor]:
    parameters = build(**DECODER).decoder.named_parameters()
    return {their_name: value.detach() for name, value in parameters if (their_name := _their_name(name))}


@cache
def configuration() -> dict[str, Any]:
    model = shared("none", 3, 3, "deformable", torch.float32)
    sizes = {key: model.config[option] + (key == "decoder_layers") for key, option in _OPTIONS.items()}
    return _FIXED | sizes | {"id2label": {"0": "0", "1": "1", "2": "2"}, "backbone_config": {"model_type": "resnet"}}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


def write(folder: Path, config: bytes, tensors: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(config)
    (folder / "model.safetensors").write_bytes(tensors)


@given(st.sampled_from((*configuration(), "nothing", "everything")), anything)
def test_configurations(scratch, key, value) -> None:
    config = value if key == "everything" else configuration() | ({} if key == "nothing" else {key: value})
    write(scratch / "configured", json.dumps(config).encode(), save(weights()))
    model = build(**DECODER)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with outcome(ValueError, valid=None if key != "nothing" else True):
        try:
            report = load_mask2former(model, scratch / "configured")
        except ValueError:
            assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
            raise
        assert len(report.copied) > 30


@given(st.sampled_from(sorted(weights())), st.lists(st.integers(0, 5), max_size=3), st.booleans(), st.data())
def test_weights(scratch, name, shape, fused, data) -> None:
    other = weights() | {name: torch.ones(shape)}
    if fused:
        other["model.transformer_module.decoder.layers.0.self_attn.in_proj_weight"] = torch.ones(shape)
    tensors = save(other)
    write(
        scratch / "weighted", json.dumps(configuration()).encode(), data.draw(st.just(tensors) | damaged(tensors[:900]))
    )
    with outcome(ValueError, valid=None):
        load_mask2former(build(**DECODER), scratch / "weighted")
