"""Making tensors again in the backward pass changes what is kept, and nothing else."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor

import mtaclip_plugin as mta
from mtaclip_plugin.decoder import memory
from mtaclip_plugin.decoder.deformable import attention, grid_sampling
from mtaclip_plugin.decoder.recompute import recomputed, recomputing
from tests.test_model import build

BANK: dict[str, Any] = {"text_encoder": "bank", "text_embeddings": torch.randn(2, 4, 24)}


@contextmanager
def kept() -> Iterator[dict[int, int]]:
    """Bytes of what is kept for the backward pass, by address."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes


def test_results_are_the_same_to_the_last_bit() -> None:
    model, images = build(**BANK), torch.randn(2, 3, 50, 64)
    labels = torch.randint(0, 3, (2, 50, 64))
    results = []
    for recompute in (True, False, "auto"):
        other = copy.deepcopy(model)
        other.decoder.recompute = recompute
        prediction = other(images, return_masks=True)
        loss = mta.MTACLIPLoss(num_points=64)(prediction, labels, torch.Generator().manual_seed(0))
        loss.backward()
        grads = {name: parameter.grad for name, parameter in other.named_parameters()}
        results.append((loss, prediction.mask_logits, grads))
    (loss, masks, grads), *others = results
    for other_loss, other_masks, other_grads in others:
        assert torch.equal(loss, other_loss) and torch.equal(masks, other_masks)
        for name, grad in grads.items():
            assert grad is other_grads[name] is None or torch.equal(grad, other_grads[name]), name


@pytest.mark.parametrize("options", [{}, {"pixel_decoder_layers": 3}, {"pixel_decoder": "fpn"}])
def test_the_count_is_about_what_is_kept_more(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"classes": 40, "class_names": [f"class {number}" for number in range(40)]}
    model = build(text_encoder="bank", text_embeddings=torch.randn(3, 41, 512), **names, **options)
    monkeypatch.setattr(attention, "deformable_sampling", grid_sampling.grid_sampling)  # as on a GPU
    images, sizes = torch.randn(2, 3, 128, 96), {}
    counts: list[int] = []

    def count(device: torch.device, size: int) -> bool:
        counts.append(size)
        return device.type != "cpu"

    monkeypatch.setattr("mtaclip_plugin.decoder.decoder.has_to_spare", count)
    for recompute in (False, "auto"):
        model.decoder.recompute = recompute
        with kept() as found:
            prediction = model(images, return_masks=True)
        sizes[recompute] = sum(found.values())
        del prediction
    assert counts == pytest.approx([sizes[False] - sizes["auto"]], rel=0.15)


def test_a_gpu_keeps_what_a_sixth_of_its_memory_is_enough_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: SimpleNamespace(total_memory=600))
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert memory.has_to_spare(cuda, 100) and not memory.has_to_spare(cuda, 101)
    assert not memory.has_to_spare(cpu, 1)


def test_a_kernel_that_sums_its_samples_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(text_encoder=None)
    pyramid = [torch.empty(2, 1, 32 // stride, 32 // stride) for stride in (4, 8, 16, 32)]
    before = model.decoder._recomputation.size(pyramid, None)
    monkeypatch.setattr(memory, "samples_by_kernel", lambda device, channels: channels == 16)
    cells, channels, samples = 16 + 4 + 1, 64, 3 * 4
    assert before - model.decoder._recomputation.size(pyramid, None) == 4 * 2 * cells * channels * (samples + 1)


def test_it_holds_for_the_pass_that_it_was_chosen_for() -> None:
    weight = torch.randn(3, 3, requires_grad=True)

    def number_kept() -> int:
        with kept() as found:
            recomputed(lambda tensor: tensor.sin().sin(), weight)
        return len(found)

    def fail() -> None:
        with recomputing(False):
            assert number_kept() == 2
            with recomputing(True):
                assert number_kept() == 1
            raise KeyError

    assert number_kept() == 1
    with pytest.raises(KeyError):
        fail()
    assert number_kept() == 1


def test_a_saved_model_has_its_choice_and_an_older_one_the_default(tmp_path: Path) -> None:
    model = build(**BANK, recompute=False)
    model.save_pretrained(tmp_path)
    assert smp.from_pretrained(tmp_path).decoder.recompute is False
    assert smp.from_pretrained(tmp_path, recompute=True).decoder.recompute is True
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    assert config.pop("recompute") is False
    file.write_text(json.dumps(config))
    assert smp.from_pretrained(tmp_path).decoder.recompute == "auto"
