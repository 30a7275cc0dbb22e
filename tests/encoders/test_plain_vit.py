from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.export import Dim

from mtaclip_plugin.encoders import StridePyramid, build_encoder, find_maps
from mtaclip_plugin.encoders.plain_vit import PlainViT

TINY = {"img_size": 32, "embed_dim": 24, "num_heads": 2}


class PatchCentres(nn.Module):
    """Tokens that say where the centres of their patches are, in pixels."""

    def __init__(self, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size

    def forward(self, image: Tensor) -> Tensor:
        assert image.shape[-2] % self.patch_size == image.shape[-1] % self.patch_size == 0
        rows, columns = (torch.arange(side // self.patch_size) for side in image.shape[-2:])
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        return (grid[None].to(image) + 0.5) * self.patch_size


@pytest.mark.parametrize("patch_size", [8, 14, 16, 32])
def test_cells_stay_where_their_pixels_are(patch_size: int) -> None:
    image, tokens = PlainViT(PatchCentres(patch_size), patch_size)(torch.rand(1, 3, 96, 160))
    assert image.shape == (1, 3, 96, 160)
    assert tokens.shape == (1, 2, 6, 10)
    inside = (slice(1, -1), slice(1, -1))  # interpolation has no neighbours beyond the border
    torch.testing.assert_close(tokens[0, 0][inside], ((torch.arange(6.0) + 0.5) * 16)[:, None].expand(6, 10)[inside])
    torch.testing.assert_close(tokens[0, 1][inside], ((torch.arange(10.0) + 0.5) * 16).expand(6, 10)[inside])


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224"])
def test_the_map_is_timms_last_tokens(name: str) -> None:
    options = TINY if "16" in name else TINY | {"img_size": 56}
    encoder = build_encoder(f"tu-{name}", weights=None, **options).eval()
    model = timm.create_model(name, **options).eval()
    missing = model.load_state_dict(encoder.body.model.state_dict(), strict=False).missing_keys
    assert all(key.startswith(("head", "fc_norm")) for key in missing)
    image = torch.rand(2, 3, options["img_size"], options["img_size"])
    tokens = model.forward_features(image)[:, model.num_prefix_tokens :]
    if name.startswith("eva02"):
        tokens = model.norm(tokens) if not isinstance(model.norm, nn.Identity) else tokens
    torch.testing.assert_close(encoder.body(image).flatten(2).transpose(1, 2), tokens)


def test_all_of_it_is_trained() -> None:
    encoder = build_encoder("tu-vit_tiny_patch16_224", weights=None, **TINY)
    pyramid = StridePyramid(find_maps(encoder, 3), 64)
    sum(m.square().mean() for m in pyramid(encoder(torch.rand(1, 3, 64, 96)))).backward()
    unused = [name for module in (encoder, pyramid) for name, p in module.named_parameters() if p.grad is None]
    assert not unused


def test_the_simple_feature_pyramid() -> None:
    encoder = build_encoder("tu-vit_tiny_patch16_224", weights=None, **TINY)
    maps = find_maps(encoder, 3)
    assert (maps.indices, maps.channels, maps.strides, maps.size_multiple) == ((1,), (24,), (16,), 32)
    pyramid = StridePyramid(maps, 64)
    assert pyramid.channels == (6, 12, 24, 64)
    features = encoder(torch.rand(1, 3, 64, 96))
    made = pyramid(features)
    assert [tuple(m.shape[-2:]) for m in made] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert torch.equal(made[2], features[1])
    # A cell of the map becomes 2 x 2 at stride 8 and 4 x 4 at stride 4, and no other cell has a part in them.
    changed = features[1].clone()
    changed[..., 1, 2] += 1
    for stride, before, after in zip((4, 8), made, pyramid([features[0], changed]), strict=False):
        side = 16 // stride
        rows, columns = (before != after).any(1)[0].nonzero().T
        assert {int(r) // side for r in rows} == {1} and {int(c) // side for c in columns} == {2}
        assert len(rows) == side**2


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
def test_exporting_with_dynamic_sizes(name: str) -> None:
    encoder = build_encoder(f"tu-{name}", weights=None, embed_dim=24).eval()
    sizes = {2: 32 * Dim("height", min=1, max=16), 3: 32 * Dim("width", min=1, max=16)}
    exported = torch.export.export(encoder, (torch.rand(2, 3, 64, 96),), dynamic_shapes=(sizes,), strict=True)
    image = torch.rand(2, 3, 160, 64)
    torch.testing.assert_close(exported.module()(image), encoder(image), atol=1e-5, rtol=1e-5)


def test_an_option_that_a_plain_vit_does_not_know_is_named() -> None:
    with pytest.raises(ValueError, match=r"'tu-vit_tiny_patch16_224' with \{'output_stride': 16\} can not be built"):
        build_encoder("tu-vit_tiny_patch16_224", weights=None, output_stride=16)


def test_no_network_is_one_sentence() -> None:
    with pytest.raises(ConnectionError, match="of encoder 'tu-vit_tiny_patch16_224' could not be fetched"):
        build_encoder("tu-vit_tiny_patch16_224")
