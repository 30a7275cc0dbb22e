from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import segmentation_models_pytorch as smp
import torch
from torch.export import Dim

import mtaclip_plugin as mta
from mtaclip_plugin.encoders import build_encoder, find_maps
from mtaclip_plugin.encoders.clip import ClipEncoder
from mtaclip_plugin.text.clip import create_clip

_TEXT = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
_VISION: dict[str, dict[str, Any]] = {
    "tiny-resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
    "tiny-vit-14": {"image_size": 56, "layers": 2, "width": 32, "head_width": 16, "patch_size": 14},
    "tiny-timm": {"timm_model_name": "test_vit", "timm_pool": "avg", "image_size": 160},
}


@pytest.fixture(scope="module", autouse=True)
def _image_towers(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("image_towers")
    for name, vision in _VISION.items():
        (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": _TEXT}))
    open_clip.add_model_config(folder)


def small_model(text_encoder: str | None, encoder_name: str = "clip", **options: Any) -> mta.MTACLIP:
    return mta.MTACLIP(
        encoder_name,
        classes=2,
        class_names=["cat", "dog"],
        text_encoder=text_encoder,
        text_pretrained=None,
        num_prompts=1,
        context_length=2,
        num_queries=4,
        decoder_channels=64,
        pixel_decoder="fpn",
        decoder_layers=1,
        decoder_ffn=64,
        num_heads=2,
        **options,
    )


def test_exporting_with_a_dynamic_batch() -> None:
    encoder = ClipEncoder(create_clip("tiny-vit-14", None).visual, in_channels=3, depth=5).eval()
    exported = torch.export.export(encoder, (torch.rand(2, 3, 56, 56),), dynamic_shapes=({0: Dim("batch")},)).module()
    images = torch.rand(3, 3, 56, 56)
    for ours, eager in zip(exported(images), encoder(images), strict=True):
        torch.testing.assert_close(ours, eager, atol=1e-5, rtol=1e-5)


def test_the_maps_of_a_resnet_are_its_stages() -> None:
    encoder = ClipEncoder(create_clip("tiny-resnet", None).visual, in_channels=3, depth=5).eval()
    maps = find_maps(encoder, 3)
    assert (maps.indices, maps.strides, maps.channels) == ((2, 3, 4, 5), (4, 8, 16, 32), (32, 64, 128, 256))
    images = torch.rand(2, 3, 64, 96)
    tower = create_clip("tiny-resnet", None).visual.eval()
    expected = tower.forward_intermediates(images, intermediates_only=True)["image_intermediates"]
    for ours, theirs in zip(encoder(images), [images, *expected], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("depth", [3, 4])
def test_fewer_stages_of_a_resnet(depth: int) -> None:
    encoder = build_encoder("clip:tiny-resnet", weights=None, depth=depth)
    assert find_maps(encoder, 3).strides == (4, 8, 16)[: depth - 1]
    sum(m.sum() for m in encoder(torch.rand(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize(("name", "side"), [("tiny-flat", 32), ("tiny-vit-14", 56)])
def test_the_map_of_a_vit_is_its_last_tokens(name: str, side: int) -> None:
    encoder = ClipEncoder(create_clip(name, None).visual, in_channels=3, depth=5).eval()
    images = torch.rand(2, 3, side, side)
    tower = create_clip(name, None).visual.eval()
    (expected,) = tower.forward_intermediates(images, indices=1, normalize_intermediates=True)["image_intermediates"]
    torch.testing.assert_close(encoder.body.body(images), expected)
    assert encoder(torch.rand(2, 3, 96, 160))[1].shape == (2, 32, 6, 10)


def test_pooled_towers_have_no_last_norm() -> None:
    encoder = build_encoder("clip:coca_tiny", weights=None)
    assert encoder(torch.rand(1, 3, 64, 96))[1].shape == (1, 32, 4, 6)


@pytest.mark.parametrize(("name", "side"), [("tiny-resnet", 64), ("tiny-flat", 32), ("tiny-vit-14", 56)])
def test_what_the_tower_pools_comes_from_the_same_pass(name: str, side: int) -> None:
    encoder = ClipEncoder(create_clip(name, None).visual, in_channels=3, depth=5).eval()
    images = torch.rand(2, 3, side, side)
    maps, unpooled = encoder.maps_and_unpooled(images)
    assert all(map(torch.equal, maps, encoder(images)))
    torch.testing.assert_close(unpooled, encoder.unpooled(images))
    tower = create_clip(name, None).visual.eval()
    if name == "tiny-resnet":
        pooled = tower.attnpool(unpooled)
    else:
        pooled = tower.ln_post(tower.transformer.resblocks[-1](unpooled))[:, 0] @ tower.proj
    torch.testing.assert_close(pooled, tower(images))


@pytest.mark.parametrize("name", ["tiny-resnet", "tiny-flat"])
def test_a_grey_image_is_seen_as_before(name: str) -> None:
    colour = build_encoder(f"clip:{name}", weights=None).eval()
    grey = build_encoder(f"clip:{name}", weights=None, in_channels=1).eval()
    image = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(grey(image)[-1], colour(image.expand(-1, 3, -1, -1))[-1])
    assert build_encoder(f"clip:{name}", weights=None, in_channels=4)(torch.rand(2, 4, 64, 64))[-1].isfinite().all()


@pytest.mark.parametrize("name", ["tiny-resnet", "tiny-vit-14"])
def test_one_clip_for_both_sides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    create = open_clip.create_model
    monkeypatch.setattr(open_clip, "create_model", lambda *a, **k: built.append(a) or create(*a, **k))
    model = small_model(name)
    assert built == [(name,)]
    assert model.prompts.tower.visual is model.prompts.tower.model.visual is None
    model(torch.rand(2, 3, 50, 70), return_masks=True).mask_logits.sum().backward()
    assert any(p.grad.abs().sum() > 0 for p in model.encoder.parameters() if p.grad is not None)
    assert all(p.requires_grad for p in model.encoder.parameters())
    assert {key for key in model.state_dict() if not key.startswith(("encoder.", "decoder."))} == {"prompts.contexts"}


@pytest.mark.parametrize("baked", [False, True])
def test_the_image_tower_is_saved(baked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("tiny-vit-14").eval()
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.encoder.image_mean.fill_(0.25)
    if baked:
        model.bake_text()
        assert (model.config["encoder_name"], model.config["text_encoder"]) == ("clip:tiny-vit-14", "bank")
    model.save_pretrained(tmp_path)
    loaded = smp.from_pretrained(tmp_path).eval()
    images = torch.rand(1, 3, 50, 70)
    assert torch.equal(loaded(images), model(images))
    assert mta.preprocessing(loaded).mean == (0.25, 0.25, 0.25)


def test_what_has_no_image_tower_is_told() -> None:
    with pytest.raises(ValueError, match="the open_clip model that text_encoder names: name one there"):
        small_model(None)
    with pytest.raises(ValueError, match="the open_clip model that text_encoder names: name one there"):
        small_model("bank", text_embeddings=torch.rand(2, 8))
    with pytest.raises(ValueError, match="is timm's test_vit; choose encoder_name='tu-test_vit'"):
        small_model("tiny-timm")
    with pytest.raises(ValueError, match=r"nor encoder 'clip' knows \['drop_path_rate'\]"):
        small_model("tiny-flat", drop_path_rate=0.1)
    with pytest.raises(ValueError, match=r"'imagenet' is neither a file nor a tag of 'RN50'.*'openai'"):
        small_model(None, "clip:RN50")
