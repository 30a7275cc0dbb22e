from __future__ import annotations

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from benchmarks.measure import peak_bytes
from benchmarks.official_flow import official_loss
from benchmarks.peers import Scene
from mtaclip_plugin import MTACLIP, MTACLIPLoss


def small_model() -> MTACLIP:
    return smp.create_model(
        "mtaclip",
        encoder_name="resnet18",
        encoder_weights=None,
        classes=5,
        class_names=["sky", "road", "car", "tree", "person"],
        text_encoder="bank",
        text_embeddings=torch.randn(2, 6, 12),
        num_queries=9,
        decoder_channels=64,
        decoder_layers=4,
        decoder_ffn=96,
        pixel_decoder_layers=2,
        pixel_decoder_ffn=96,
    )


def test_it_gives_our_loss_and_our_gradients() -> None:
    scene = Scene.random(batch=2, side=64, num_classes=5, masks=4)
    target = scene.target.clone()
    target[0, :20, :30] = 255
    model, criterion = small_model().double(), MTACLIPLoss(num_points=200)
    images = scene.images.double()

    def gradients(loss: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    ours = criterion(model(images, return_masks=True), target, torch.Generator().manual_seed(3))
    ours_gradients = gradients(ours)
    official = official_loss(model, criterion, images, target, torch.Generator().manual_seed(3))
    torch.testing.assert_close(official, ours, rtol=1e-5, atol=1e-5)  # losses are made in float32
    for name, gradient in gradients(official).items():
        torch.testing.assert_close(gradient, ours_gradients[name], rtol=1e-3, atol=1e-4, msg=name)


def test_it_keeps_more_for_the_backward_pass() -> None:
    scene = Scene.random(batch=2, side=192, num_classes=5, masks=4)
    model, criterion = small_model(), MTACLIPLoss(num_points=200)
    model.freeze_encoder()  # so that what it keeps does not hide what the rest does

    class Step(nn.Module):
        def __init__(self, *, official: bool) -> None:
            super().__init__()
            self.model = model
            self.official = official

        def forward(self) -> Tensor:
            if self.official:
                return official_loss(self.model, criterion, scene.images, scene.target)
            return criterion(self.model(scene.images, return_masks=True), scene.target)

    masks = 4 * 2 * (9 + 2 * 6) * 48 * 48  # of mask and text queries at the full grid, at each of five predictions
    official, ours = (peak_bytes(step, step) for step in (Step(official=True), Step(official=False)))
    assert official - ours > 5 * masks
