"""The model and its losses together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor

import mtaclip_plugin as mta
from tests.test_model import NAMES, SMALL
from trainers.data.batch import IGNORE_INDEX
from trainers.data.shapes import ShapesDataset


def build(**options: Any) -> mta.MTACLIP:
    defaults = SMALL | {"classes": 3, "class_names": NAMES, "text_encoder": "tiny-flat", "text_pretrained": None}
    return smp.create_model("mtaclip", **(defaults | options))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def batch() -> tuple[Tensor, Tensor]:
    """Two images of blocks of three classes, some of them ignored."""
    blocks = torch.tensor([[[0, 1, 2], [255, 1, 0]], [[2, 2, 2], [255, 255, 2]]])
    return torch.randn(2, 3, 50, 75), blocks.repeat_interleave(25, 1).repeat_interleave(25, 2)


@pytest.mark.parametrize("kind", ["masks", "logits"])
def test_either_loss_falls_by_half_on_eight_images(kind: str) -> None:
    scenes = ShapesDataset("train", size=64, length=8)
    images = torch.stack([scenes[i].image for i in range(8)]) / 127.5 - 1
    labels = torch.stack([scenes[i].label for i in range(8)])
    names = scenes.class_names
    model = build(classes=len(names), class_names=names, num_queries=20)
    criterion: Callable[[], Tensor]
    if kind == "masks":
        masks = mta.MTACLIPLoss(num_points=1024)
        criterion = lambda: masks(model(images, return_masks=True), labels)  # noqa: E731
    else:
        dice = smp.losses.DiceLoss("multiclass", ignore_index=IGNORE_INDEX)
        criterion = lambda: dice(model(images), labels)  # noqa: E731
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(100):
        loss = criterion()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if losses[-1] < losses[0] / 2:
            break
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    "text", [{}, {"text_encoder": None}, {"text_encoder": "bank", "text_embeddings": torch.ones(3, 16)}]
)
def test_an_image_without_a_label_trains_every_parameter(text: dict[str, Any]) -> None:
    model = build(**text)
    images, labels = batch()
    terms = mta.MTACLIPLoss(num_points=64).terms(model(images, return_masks=True), torch.full_like(labels, 255))
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert any(term > 0 for name, term in terms.items() if name.endswith("class"))
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert missing == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_permuted_classes_leave_the_loss_as_it_was() -> None:
    model, order = build(), [2, 0, 1]
    permuted = build(class_names=[NAMES[k] for k in order])
    state = model.state_dict()
    for name in ("weight", "bias"):
        key = f"decoder.tokens.head.class_head.{name}"
        state[key] = state[key][[*order, 3]]
    permuted.load_state_dict(state)
    images, labels = batch()
    moved = labels.clone()
    for new, old in enumerate(order):
        moved[labels == old] = new
    criterion = mta.MTACLIPLoss(num_points=256)
    terms = criterion.terms(model(images, return_masks=True), labels, generator())
    others = criterion.terms(permuted(images, return_masks=True), moved, generator())
    for name, term in terms.items():
        torch.testing.assert_close(others[name], term, atol=1e-4, rtol=1e-4)


def test_permuted_queries_change_nothing() -> None:
    model = build()
    images, labels = batch()
    criterion = mta.MTACLIPLoss(num_points=256)
    loss, logits = criterion(model(images, return_masks=True), labels, generator()), model(images)
    order, decoder = torch.randperm(8), model.decoder.mask_text_decoder
    with torch.no_grad():
        for queries in (decoder.mask_queries, decoder.mask_positions):
            queries.weight.copy_(queries.weight[order])
    torch.testing.assert_close(criterion(model(images, return_masks=True), labels, generator()), loss)
    torch.testing.assert_close(model(images), logits, atol=1e-4, rtol=1e-4)


def test_ignored_labels_and_padding_do_not_matter() -> None:
    model = build()
    images, labels = batch()
    criterion = mta.MTACLIPLoss(num_points=256)
    prediction = model(images, return_masks=True)
    loss = criterion(prediction, labels, generator())
    torch.testing.assert_close(criterion(prediction, labels.clone(), generator()), loss)
    relabelled = torch.where(labels == 255, 254, labels)
    torch.testing.assert_close(
        mta.MTACLIPLoss(num_points=256, ignore_index=254)(prediction, relabelled, generator()), loss
    )


def test_a_head_that_smp_trains_leaves_only_the_contrastive_parameters_without_a_gradient() -> None:
    model = build()
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    contrastive = {name for name, _ in model.named_parameters() if ".text_head." in name}
    assert unused == contrastive


def test_logits_instead_of_masks_are_refused() -> None:
    images, labels = batch()
    with pytest.raises(ValueError, match=r"got Tensor; call model\(images, return_masks=True\)"):
        mta.MTACLIPLoss()(build()(images), labels)


def test_one_class_is_the_1_of_a_binary_mask() -> None:
    """As in smp: trained by the method's loss, the model gives the mask, not its inverse."""
    model = build(classes=1, class_names=None, text_encoder=None)
    images = torch.zeros(2, 3, 64, 64)
    images[0, :, :, :32], images[1, :, :24] = 2.0, 2.0
    masks = (images[:, 0] > 0).long()
    criterion = mta.MTACLIPLoss(num_points=256)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(12):
        loss = criterion(model(images, return_masks=True), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Batch norms of so short a training lag behind, so the model stays in training mode.
    logits = model(images)[:, 0].detach()
    assert logits[masks == 1].mean() > logits[masks == 0].mean() + 1
    with torch.no_grad():
        nothing = criterion.terms(model(images, return_masks=True), torch.zeros_like(masks))
    assert nothing["0/mask"] == nothing["0/dice"] == 0 and nothing["0/class"] > 0


@pytest.mark.parametrize(("value", "ignore_index", "message"), [
    (2, 255, r"holds the id 2, but there are K=1 classes \(ids 1, and 0 for the background\)"),
    (1, 0, "ignore_index=0 leaves nothing to learn"),
])  # fmt: skip
def test_a_mask_that_is_not_binary_is_named(value: int, ignore_index: int, message: str) -> None:
    model = build(classes=1, class_names=None, text_encoder=None).eval()
    prediction = model(torch.zeros(1, 3, 32, 32), return_masks=True)
    with pytest.raises(ValueError, match=message):
        mta.MTACLIPLoss(ignore_index=ignore_index)(prediction, torch.full((1, 32, 32), value))


def test_one_class_trains_with_a_binary_loss() -> None:
    model = build(classes=1, class_names=None, text_encoder=None)
    images, labels = batch()
    smp.losses.DiceLoss("binary")(model(images), (labels == 1).long()[:, None]).backward()
    assert model.decoder.mask_text_decoder.mask_queries.weight.grad.abs().sum() > 0
