from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file

import mtaclip_plugin as mta

NAMES = ["cat", "dog", "traffic light"]
SMALL: dict[str, Any] = {
    "encoder_name": "resnet18",
    "encoder_weights": None,
    "num_queries": 8,
    "num_prompts": 2,
    "context_length": 4,
    "decoder_channels": 64,
    "pixel_decoder_layers": 1,
    "pixel_decoder_ffn": 64,
    "decoder_layers": 2,
    "decoder_ffn": 64,
    "num_heads": 4,
}


def build(**options: Any) -> mta.MTACLIP:
    defaults = SMALL | {
        "classes": 3,
        "class_names": NAMES,
        "text_encoder": "tiny-flat",
        "text_pretrained": None,
    }
    return smp.create_model("mtaclip", **(defaults | options))


def test_importing_registers_and_again_changes_nothing() -> None:
    from mtaclip_plugin.registration import register

    register()
    assert smp.MTACLIP is mta.MTACLIP
    assert list(smp.MODEL_ARCHITECTURES_MAPPING).count("mtaclip") == 1


@pytest.mark.parametrize("size", [(64, 64), (50, 70), (33, 1), (1, 1)])
@pytest.mark.parametrize("training", [True, False])
def test_logits_for_any_size(size: tuple[int, int], training: bool) -> None:
    model = build().train(training)
    logits = model(torch.randn(2, 3, *size))
    assert logits.shape == (2, 3, *size)
    assert logits.dtype == torch.float32 and logits.isfinite().all()


def test_return_masks() -> None:
    prediction = build()(torch.randn(2, 3, 50, 70), return_masks=True)
    assert prediction.image_size == (50, 70) and prediction.padded_size == (64, 96)
    assert prediction.mask_logits.shape == (2, 8, 16, 24)
    assert prediction.class_logits.shape == (2, 8, 4)
    assert prediction.text_logits.shape == (2, 8, 2, 4)
    assert len(prediction.auxiliary) == 2 and prediction.layers[-1] is prediction
    assert prediction.labels is None


def test_padding_does_not_reach_the_logits_size() -> None:
    model = build(text_encoder=None).eval()
    image = torch.randn(1, 3, 64, 64)
    cut = image.clone()
    cut[..., 40:, :] = 0
    torch.testing.assert_close(model(image[..., :40, :]), model(cut)[..., :40, :])


def test_text_kinds() -> None:
    bank = build(text_encoder="bank", text_embeddings=torch.randn(3, 16))
    assert bank.prompts().shape == (1, 4, 16)
    full = build(text_encoder="bank", text_embeddings=torch.randn(2, 4, 16))
    assert full.prompts().shape == (2, 4, 16)
    none = build(text_encoder=None, class_names=None)
    assert none.prompts is None and none(torch.randn(2, 3, 32, 32), return_masks=True).text_logits is None
    single = build(classes=1, class_names=None)
    assert single.class_names == ["foreground"]
    assert single(torch.randn(2, 3, 32, 32)).shape == (2, 1, 32, 32)


@pytest.mark.parametrize("options", [{}, {"text_encoder": "bank", "text_embeddings": torch.randn(3, 16)}])
def test_saving_and_loading_reproduces_the_outputs(tmp_path: Path, options: dict[str, Any]) -> None:
    model = build(**options).eval()
    image = torch.randn(1, 3, 50, 70)
    model.save_pretrained(tmp_path, metrics={"miou": 0.5}, dataset="shapes")
    loaded = smp.from_pretrained(tmp_path)
    assert torch.equal(loaded(image), model(image))
    assert {k: v for k, v in loaded.config.items() if k != "_model_class"} == model.config
    assert not any("tower" in name or name == "text_embeddings" for name in model.state_dict())


def test_text_embeddings_follow_the_contexts() -> None:
    model = build().eval()
    before = model.text_embeddings.clone()
    torch.testing.assert_close(before, model.prompts())
    model.train()
    optimizer = torch.optim.AdamW([model.prompts.contexts], lr=0.1)
    model.prompts().sum().backward()
    optimizer.step()
    torch.testing.assert_close(model.eval().text_embeddings, model.prompts())
    assert not torch.allclose(before, model.text_embeddings)
    other = build()
    with torch.no_grad():
        other.prompts.contexts.normal_()
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model.text_embeddings, other.prompts())


def test_evaluation_runs_the_tower_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build().eval()
    monkeypatch.setattr(model.prompts.tower, "encode", lambda *_: pytest.fail("the tower ran"))
    model.eval()
    model(torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize("how", ["fused optimizer", "data"])
def test_changes_that_leave_no_trace_in_versions_refresh_the_text(how: str) -> None:
    model = build().eval()
    before = model.text_embeddings
    contexts = model.train().prompts.contexts
    if how == "data":
        contexts.data.mul_(0.5).add_(torch.ones(contexts.shape))
    else:
        contexts.grad = torch.ones_like(contexts)
        torch.optim.AdamW([contexts], lr=0.1, fused=True).step()
    with torch.no_grad():
        expected = model.prompts()
    assert torch.equal(model.eval().text_embeddings, expected) and not torch.equal(before, expected)


def test_names_are_saved_whatever_holds_them(tmp_path: Path) -> None:
    build(class_names=np.array(NAMES)).save_pretrained(tmp_path)
    assert smp.from_pretrained(tmp_path).class_names == NAMES


def test_prediction_inside_inference_mode_leaves_the_model_trainable() -> None:
    model = build()
    model.predict(torch.randn(1, 3, 32, 32))
    model.train()(torch.randn(2, 3, 32, 32)).sum().backward()
    model.eval()(torch.randn(2, 3, 32, 32)).sum().backward()
    assert model.prompts.contexts.grad.any()


def test_a_copy_refreshes_its_own_text() -> None:
    model = build().eval()
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.prompts.contexts.add_(1.0)
    copied.eval()
    torch.testing.assert_close(copied.text_embeddings, copied.prompts())
    torch.testing.assert_close(model.eval().text_embeddings, model.prompts())


def test_loading_into_a_module_that_holds_the_model_refreshes_its_text() -> None:
    held = torch.nn.Sequential(build()).eval()
    other = torch.nn.Sequential(build())
    with torch.no_grad():
        other[0].prompts.contexts.normal_()
    held.load_state_dict(other.state_dict())
    torch.testing.assert_close(held[0].text_embeddings, other[0].prompts())


def test_a_model_made_in_inference_mode_predicts() -> None:
    with torch.inference_mode():
        model = build().eval()
        image = torch.randn(1, 3, 32, 32)
        expected = model(image)
        assert torch.equal(copy.deepcopy(model).eval()(image), expected)


def test_another_dtype_takes_the_text_along() -> None:
    model = build().eval().double()
    assert model.text_embeddings.dtype == torch.float64
    assert model(torch.randn(1, 3, 32, 32, dtype=torch.float64)).isfinite().all()


def test_a_frozen_encoder_is_still() -> None:
    model = build(encoder_name="tu-convnext_atto", drop_path_rate=0.5)
    model.freeze_encoder()
    model.train()
    assert not any(module.training for module in model.encoder.modules())
    model.unfreeze_encoder()
    assert all(module.training for module in model.encoder.modules())
    assert all(parameter.requires_grad for parameter in model.encoder.parameters())


def test_auxiliary_labels() -> None:
    model = build(aux_params={"classes": 5})
    logits, labels = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 3, 32, 32) and labels.shape == (2, 5)
    assert model(torch.randn(2, 3, 32, 32), return_masks=True).labels.shape == (2, 5)


def test_channels_and_depth() -> None:
    assert build(in_channels=4)(torch.randn(2, 4, 32, 32)).shape == (2, 3, 32, 32)
    assert build(encoder_depth=3)(torch.randn(2, 3, 40, 40)).shape == (2, 3, 40, 40)
    for pixel_decoder in ("fpn", "semantic_fpn", "context_fpn"):
        assert build(pixel_decoder=pixel_decoder)(torch.randn(2, 3, 40, 40)).shape == (2, 3, 40, 40)


def test_permuted_classes_give_permuted_logits() -> None:
    model = build().eval()
    order = [2, 0, 1]
    permuted = build(class_names=[NAMES[k] for k in order])
    state = model.state_dict()
    rows = [*order, 3]
    for name in ("weight", "bias"):
        key = f"decoder.tokens.head.class_head.{name}"
        state[key] = state[key][rows]
    permuted.load_state_dict(state)
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(permuted.eval()(image), model(image)[:, order], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": None}, "needs the names of the 3 classes"),
        ({"class_names": ["a", "b"]}, "2 class names for 3 classes"),
        ({"text_encoder": "bank"}, "needs text_embeddings="),
        ({"text_embeddings": torch.ones(3, 4)}, "need text_encoder='bank'"),
        ({"decoder_channels": 40}, "multiple of 64"),
        ({"classification": "txt"}, "classification must be one of"),
        ({"classification": "text", "text_encoder": None}, "needs text, but text_encoder is None"),
        ({"untrained_names": ["dog"], "text_encoder": None}, r"untrained_names=\['dog'\] needs text, but"),
        ({"pixel_decoder": "unet"}, "pixel_decoder must be one of"),
        ({"recompute": "never"}, "recompute must be one of 'auto', True, False, got 'never'"),
        ({"encoder_depth": 2}, "encoder_depth"),
        ({"num_queries": 0}, "num_queries must be a whole number of 1 or more, got 0"),
        ({"num_prompts": 0}, "num_prompts must be a whole number of 1 or more, got 0"),
        ({"context_length": -1}, "context_length must be a whole number of 1 or more, got -1"),
        ({"num_heads": 0}, "num_heads must be a whole number of 1 or more"),
        ({"decoder_channels": (256, 128)}, r"decoder_channels must be a whole number of 1 or more, got \(256, 128\)"),
        ({"temperature": 0.001}, "temperature must be at least 0.01"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_bad_images() -> None:
    model = build()
    for image in (torch.randn(3, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"images must be floating-point \(B, C, H, W\)"):
            model(image)
    with pytest.raises(ValueError, match="built for 3 channels, got 4"):
        model(torch.randn(1, 4, 32, 32))


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        build(num_queries=9).load_state_dict(build().state_dict())


@pytest.mark.parametrize("options", [{}, {"classification": "text"}, {"aux_params": {"classes": 2}}])
def test_labels_are_the_classes_of_the_highest_logits(options: dict[str, Any]) -> None:
    model, images = build(**options), torch.randn(2, 3, 50, 70)
    labels = model.predict_labels(images)
    assert not model.training
    logits = model.predict(images)
    logits = logits[0] if "aux_params" in options else logits
    assert labels.shape == (2, 50, 70) and labels.dtype == torch.int64
    assert torch.equal(labels, logits.argmax(1))


def named_as_before(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights under the names that parts of the decoder had in earlier versions."""
    names = {"decoder.pixels.": "decoder.pixel_decoder.", "decoder.tokens.": "decoder.mask_text_decoder."}
    old = {}
    for name, value in state.items():
        for today, before in names.items():
            name = name.replace(today, before)
        old[name] = value
    assert old.keys() != state.keys() and not any(today in name for name in old for today in names)
    return old


def test_weights_of_earlier_versions_load(tmp_path: Path) -> None:
    model = build().eval()
    image, old = torch.randn(1, 3, 50, 70), named_as_before(model.state_dict())
    expected = model(image)
    for holder in (lambda m: m, torch.nn.Sequential):
        other = holder(build()).eval()
        prefixed = {f"{'' if isinstance(other, mta.MTACLIP) else '0.'}{name}": value for name, value in old.items()}
        other.load_state_dict(prefixed)
        assert torch.equal(other(image), expected)
    model.save_pretrained(tmp_path)
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(smp.from_pretrained(tmp_path)(image), expected)


def test_weights_of_earlier_versions_for_another_number_of_classes_load_as_far_as_they_fit() -> None:
    model, other = build(), build(classes=2, class_names=["cat", "dog"])
    with pytest.warns(UserWarning, match=r"tokens\.head\.class_head.weight: torch.Size\(\[4, 64\]\) \(weights\)"):
        other.load_state_dict(named_as_before(model.state_dict()), strict=False)
    queries = (each.decoder.mask_text_decoder.mask_queries.weight for each in (model, other))
    assert torch.equal(*queries)
