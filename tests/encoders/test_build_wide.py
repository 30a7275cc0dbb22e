from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.encoder_list import ENCODERS, REFUSED
from mtaclip_plugin import MTACLIP
from mtaclip_plugin.encoders.dpt import encode


@pytest.mark.parametrize("in_channels", [1, 4])
@pytest.mark.parametrize(("name", "options"), ENCODERS.items(), ids=ENCODERS)
def test_every_make_segments_images_of_any_size(name: str, options: dict[str, Any], in_channels: int) -> None:
    model = MTACLIP(
        name,
        encoder_weights=None,
        in_channels=in_channels,
        classes=2,
        text_encoder=None,
        decoder_channels=64,
        pixel_decoder="fpn",
        decoder_layers=1,
        decoder_ffn=64,
        num_heads=2,
        num_queries=4,
        **options,
    ).eval()
    images = torch.rand(1, in_channels, 50, 70, requires_grad=True)
    logits = model(images)
    assert logits.shape == (1, 2, 50, 70)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert logits.isfinite().all() and gradient.isfinite().all()
    assert gradient.abs().amax((0, 2, 3)).all()  # every channel counts

    multiple = model._size_multiple
    with torch.no_grad():
        images = torch.rand(1, in_channels, multiple, 2 * multiple)
        pyramid = model.decoder.pyramid(encode(model.encoder, images))
    assert [m.shape[-2:] for m in pyramid] == [(multiple // s, 2 * multiple // s) for s in (4, 8, 16, 32)]
    assert tuple(m.shape[1] for m in pyramid) == model.decoder.pyramid.channels


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_used_is_refused_with_the_name_of_one_that_can(name: str) -> None:
    with pytest.raises(ValueError, match=r"such as 'resnet50'|choose encoder_name='tu-vit_") as refused:
        MTACLIP(name, encoder_weights=None, classes=2, text_encoder=None)
    assert "\n" not in str(refused.value)
    sizes = ("tu-coat", "tu-efficientformer", "tu-gcvit", "tu-hiera")
    assert ("takes no image whose sides are multiples of" in str(refused.value)) == name.startswith(sizes)
