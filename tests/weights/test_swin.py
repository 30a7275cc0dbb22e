from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from mtaclip_plugin import MTACLIP
from mtaclip_plugin.weights.mask2former import load_mask2former
from tests.weights.test_mask2former import STAGES, make_model, make_oracle, predictions_of, transformers

TINY, BASE = "tu-swin_tiny_patch4_window7_224", "tu-swin_base_patch4_window12_384"
NARROW = {"embed_dim": 24, "depths": (2, 2, 2, 2)}
FULL = {"embed_dim": 96, "depths": (2, 2, 6, 2)}
HEADS = {"num_heads": (3, 6, 12, 24), "window_size": 7}  # of timm's tiny and small ones
BASE_HEADS = {"num_heads": (4, 8, 16, 32), "window_size": 12}


def make_swin_model(name: str = TINY, **changes: Any) -> MTACLIP:
    return make_model(encoder_name=name, **NARROW | changes)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def oracle() -> nn.Module:
    """Shared by the tests that only read it."""
    torch.manual_seed(0)
    return make_oracle(**NARROW, **HEADS)


@pytest.mark.parametrize(
    ("name", "options", "heads", "dtype"),
    [
        (TINY, FULL, HEADS, torch.float32),
        (TINY, NARROW, HEADS, torch.float32),
        (TINY, NARROW, HEADS, torch.float64),
        (BASE, NARROW | {"embed_dim": 32}, BASE_HEADS, torch.float32),
    ],
)
@torch.no_grad()
def test_maps_and_every_layer_equal_transformers(
    name: str, options: dict[str, Any], heads: dict[str, Any], dtype
) -> None:
    oracle = make_oracle(**options, **heads).to(dtype)
    model = make_swin_model(name, **options).to(dtype)
    report = load_mask2former(model, oracle)
    assert not report.skipped
    # Multiples of the window at every stride; smaller than it at stride 32; larger than it, but no multiples.
    for size in [(32 * heads["window_size"], 32 * heads["window_size"]), (64, 160), (352, 96)]:
        images = torch.randn(2, 3, *size, dtype=dtype)
        expected = oracle.model.pixel_level_module.encoder(images).feature_maps
        maps = model.decoder.pyramid(model.encoder(images))
        for ours, theirs in zip(maps, expected, strict=True):
            assert theirs.std() > 0.5
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    for size in [(224, 224), (64, 160)]:
        images = torch.randn(2, 3, *size, dtype=dtype)
        layers = model(images, return_masks=True).layers
        for layer, theirs in zip(layers, predictions_of(oracle, images), strict=True):
            torch.testing.assert_close(layer.mask_logits, theirs["masks_queries_logits"], atol=1e-4, rtol=0)
            torch.testing.assert_close(layer.class_logits, theirs["class_queries_logits"], atol=1e-4, rtol=0)


def test_report_names_every_parameter_once(oracle: nn.Module) -> None:
    model = make_swin_model()
    before = weights_of(model)
    report = load_mask2former(model, oracle)
    assert sorted(report.copied) == sorted(before) and not report.skipped
    assert not any(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_file_gives_the_same_without_transformers(oracle: nn.Module, tmp_path: Path, monkeypatch) -> None:
    direct, model = make_swin_model(), make_swin_model()
    expected = load_mask2former(direct, oracle)
    oracle.save_pretrained(tmp_path)  # by other names than in memory, those of the files on the hub
    monkeypatch.setitem(sys.modules, "transformers", None)
    report = load_mask2former(model, str(tmp_path))
    assert not report.skipped and set(report.copied) == set(expected.copied)
    for name, value in model.state_dict().items():
        assert torch.equal(value, direct.state_dict()[name]), name


def test_a_saved_model_gives_the_same(oracle: nn.Module, tmp_path: Path) -> None:
    model = make_swin_model()
    load_mask2former(model, oracle)
    model.save_pretrained(tmp_path)
    images = torch.randn(1, 3, 64, 96)
    assert torch.equal(smp.from_pretrained(tmp_path).eval()(images), model(images))


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        (BASE, {}, "another Swin: window_size 7 there, 12 here"),
        (TINY, {"depths": (2, 2, 4, 2)}, r"another Swin: depths \[2, 2, 2, 2\] there, \[2, 2, 4, 2\] here"),
        (TINY, {"embed_dim": 48}, "another Swin: embed_dim 24 there, 48 here"),
        (TINY, {"encoder_depth": 4}, r"depths \[2, 2, 2, 2\] there, \[2, 2, 2\] here"),
        (TINY, {"in_channels": 4}, r"patch_embed.proj.weight is \(24, 3, 4, 4\) there, \(24, 4, 4, 4\) here"),
        (TINY, {"qkv_bias": False}, r"layers_0.blocks.0.attn.qkv.bias is \(72,\) there, absent here"),
        ("tu-swin_s3_tiny_224", {}, r"window_size 7 there, \[\[7, 7\], \[7, 7\], \[14, 14\], \[7, 7\]\] here"),
        ("tu-swinv2_tiny_window8_256", {}, "another encoder: 'swin' there, 'tu-swinv2_tiny_window8_256' here"),
    ],
)
def test_another_encoder_is_skipped_and_the_rest_copied(
    oracle: nn.Module, name: str, changes: dict[str, Any], reason: str
) -> None:
    model = make_swin_model(name, **changes)
    before = weights_of(model)
    report = load_mask2former(model, oracle)
    skipped = {entry.name: entry.reason for entry in report.skipped}
    assert re.search(reason, skipped["encoder"])
    assert all(text == skipped["encoder"] for name, text in skipped.items() if ".norms." in name)
    assert set(report.copied).isdisjoint(skipped)
    assert set(report.copied) | skipped.keys() == {"encoder", *(name for name in before if name.startswith("decoder."))}
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(report.copied)


@pytest.mark.parametrize(
    ("swin", "reason"),
    [
        ({"num_heads": (1, 2, 4, 8)}, r"another Swin: num_heads \[1, 2, 4, 8\] there, \[3, 6, 12, 24\] here"),
        ({"layer_norm_eps": 1e-12}, "another Swin: layer_norm_eps 1e-12 there, 1e-05 here"),
        ({"hidden_act": "relu"}, "another Swin: hidden_act relu there, gelu here"),
        ({"use_absolute_embeddings": True}, r"position_embeddings is \(1, 3136, 24\) there, absent here"),
        ({"mlp_ratio": 2}, r"mlp\.fc1\.weight is \(48, 24\) there, \(96, 24\) here"),
    ],
)
def test_what_this_swin_of_timm_does_not_have_is_a_reason(swin: dict[str, Any], reason: str) -> None:
    report = load_mask2former(make_swin_model(), make_oracle(**NARROW | HEADS | swin))
    assert report.skipped[0].name == "encoder" and re.search(reason, report.skipped[0].reason)


def test_a_resnet_there_is_skipped() -> None:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[24, 48, 96, 192], depths=[1, 1, 1, 1], out_features=STAGES
    )
    model = make_swin_model()
    before = weights_of(model.encoder)
    report = load_mask2former(model, make_oracle(backbone))
    names = {f"decoder.{name}" for name in model.decoder.state_dict()}
    norms = {name for name in names if name.startswith("decoder.pyramid.norms.")}
    assert len(norms) == 8 and set(report.copied) == names - norms
    assert {entry.name: entry.reason for entry in report.skipped} == dict.fromkeys(
        ["encoder", *norms], f"another encoder: 'resnet' there, '{TINY}' here"
    )
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())


def test_a_file_without_some_of_the_encoder_is_skipped_whole(oracle: nn.Module, tmp_path: Path) -> None:
    oracle.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    lost = "model.pixel_level_module.encoder.encoder.layers.1.blocks.0.attention.self.key.weight"
    state = safetensors.torch.load_file(file)
    safetensors.torch.save_file({name: value for name, value in state.items() if name != lost}, file)
    model = make_swin_model()
    before = weights_of(model.encoder)
    report = load_mask2former(model, tmp_path)
    assert re.search(r"layers_1\.blocks\.0\.attn\.qkv\.weight is absent there", report.skipped[0].reason)
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())


def test_an_error_changes_nothing(oracle: nn.Module) -> None:
    model = make_swin_model(num_queries=20)
    before = weights_of(model)
    with pytest.raises(ValueError, match="num_queries=20, but 10"):
        load_mask2former(model, oracle)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_timms_own_windows_take_the_same_weights(oracle: nn.Module) -> None:
    model, timms = make_swin_model(), make_swin_model(always_partition=False)
    assert load_mask2former(model, oracle) == load_mask2former(timms, oracle)
    assert all(torch.equal(value, timms.state_dict()[name]) for name, value in model.state_dict().items())
