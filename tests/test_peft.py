"""Adapters of peft: what the docs say of them."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import mtaclip_plugin as mta
from tests import test_model

TRAINING = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
VIT = "tu-deit_tiny_patch16_224"


def build(**options: Any) -> mta.MTACLIP:
    return test_model.build(**{"encoder_name": VIT, "decoder_layers": 1} | options)


def named(kind: str) -> list[str]:
    """The names that the table has of a kind."""
    (row,) = re.findall(rf"^\| `{kind}` \| (.*) \|$", TRAINING, re.MULTILINE)
    return re.findall(r"`([^`]+)`", row)


def train(lora: torch.nn.Module) -> None:
    optimizer = torch.optim.Adam((weight for weight in lora.parameters() if weight.requires_grad), lr=1e-2)
    criterion = mta.MTACLIPLoss(num_points=64)
    for _ in range(2):  # half of LoRA's weights start at zero
        prediction = lora(torch.randn(2, 3, 32, 64), return_masks=True)
        labels = prediction.labels.square().sum() if prediction.labels is not None else 0
        (criterion(prediction, torch.randint(3, (2, 32, 64))) + labels).backward()
        assert all(weight.grad is not None for weight in lora.parameters() if weight.requires_grad)
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    prediction = model(torch.ones(1, 3, 32, 64), return_masks=True)
    kinds = (prediction.mask_logits, prediction.class_logits, prediction.text_logits, prediction.labels)
    return torch.cat([kind.flatten() for kind in kinds if kind is not None])


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"<!-- lora -->\n```python\n(.*?)```", TRAINING, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    build().save_pretrained("runs/base")
    loader = [(torch.randn(2, 3, 32, 64), torch.randint(3, (2, 32, 64))) for _ in range(2)]
    names: dict[str, Any] = {"smp": smp, "torch": torch, "loader": loader, "criterion": mta.MTACLIPLoss(num_points=64)}
    exec(code, names)
    model, lora = names["model"], names["lora"].eval()
    assert isinstance(model, mta.MTACLIP) and not model.training
    torch.testing.assert_close(logits(model), logits(lora), atol=1e-5, rtol=1e-4)
    assert not torch.equal(logits(model), logits(smp.from_pretrained("runs/base")))
    model.set_class_names(["road", "dog"])
    model.save_pretrained("runs/merged")
    assert torch.equal(logits(smp.from_pretrained("runs/merged")), logits(model))


def encoder_of(target: str) -> str:
    return {"c_fc": "clip", "c_proj": "clip", "conv1": "resnet18", "conv2": "resnet18"}.get(target, VIT)


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in ("target_modules", "modules_to_save") for n in named(k)])
def test_names_that_work(kind: str, name: str, tmp_path: Path) -> None:
    target = name if kind == "target_modules" else "query" if name == "encoder" else "qkv"
    base = build(encoder_name=encoder_of(target), aux_params={"classes": 2})
    base.freeze_encoder()
    model = copy.deepcopy(base)
    lora = get_peft_model(model, LoraConfig(r=2, target_modules=[target], modules_to_save=[name] * (target != name)))
    taken = [path for path, module in lora.named_modules() if path.endswith(name) and hasattr(module, "_adapters")]
    assert target == name or taken
    before = logits(lora.eval())
    train(lora.train())
    lora.save_pretrained(tmp_path)
    expected = logits(lora.eval())
    assert not torch.allclose(expected, before, atol=1e-5)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path)).eval()
    torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(loaded.merge_and_unload()), expected, atol=1e-4, rtol=1e-3)


def test_parts_that_would_be_saved_untrained_are_refused_before_training() -> None:
    lora = get_peft_model(build(), LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["head"])).train()
    with pytest.raises(RuntimeError, match=r"\['head'\] took 'class_head', .* in 'decoder\.tokens\.head' too"):
        lora(torch.randn(2, 3, 32, 64))


def test_wrapped_prompts_are_not_exchanged() -> None:
    lora = get_peft_model(build(), LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["prompts"]))
    for exchange in (
        lambda model: model.set_class_names(["a", "b"]),
        lambda model: model.set_text_embeddings(torch.randn(3, 24)),
        lambda model: model.bake_text(),
    ):
        with pytest.raises(ValueError, match=r"peft has wrapped the prompts: .* after merge_and_unload\(\)"):
            exchange(lora.base_model.model)
