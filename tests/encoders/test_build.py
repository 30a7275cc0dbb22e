from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mtaclip_plugin.encoders import StridePyramid, build_encoder, find_maps


class FakeEncoder(nn.Module):
    """Maps of any strides and channels; counts as trainable because it has a parameter."""

    def __init__(self, *maps: tuple[int, int], multiple: int = 1) -> None:
        super().__init__()
        self.maps, self.multiple = maps, multiple
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> list[Tensor]:
        if image.shape[-1] % self.multiple or image.shape[-2] % self.multiple:
            raise RuntimeError(f"sides must be multiples of {self.multiple}")
        return [self.weight * image.new_ones(1, c, image.shape[-2] // s, image.shape[-1] // s) for s, c in self.maps]


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v2", "mit_b0", "densenet121", "tu-convnext_atto", "tu-resnet10t", "tu-efficientnet_lite0"],
)
def test_maps_come_by_reduction(name: str) -> None:
    encoder = build_encoder(name, weights=None)
    maps = find_maps(encoder, 3)
    features = encoder(torch.rand(2, 3, 64, 96))
    pyramid = StridePyramid(maps)(features)
    assert [tuple(m.shape[-2:]) for m in pyramid] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert tuple(m.shape[1] for m in pyramid) == StridePyramid(maps).channels == maps.channels


def test_probing_leaves_modes_and_statistics_alone() -> None:
    encoder = build_encoder("resnet18", weights=None)
    encoder.layer4.eval()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    find_maps(encoder, 3)
    assert encoder.training and encoder.layer3.training and not encoder.layer4.training
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize(("depth", "made"), [(3, 2), (4, 1), (5, 0)])
def test_missing_strides_are_made(depth: int, made: int) -> None:
    encoder = build_encoder("resnet18", depth=depth, weights=None)
    pyramid = StridePyramid(find_maps(encoder, 3), 64)
    maps = pyramid(encoder(torch.rand(1, 3, 64, 64)))
    assert len(pyramid.downsampling) == made
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2]
    assert [m.shape[1] for m in maps] == list(pyramid.channels)


@pytest.mark.parametrize("depth", [3, 5])
def test_every_map_of_a_swin_is_normed(depth: int) -> None:
    encoder = build_encoder(
        "tu-swin_tiny_patch4_window7_224", depth=depth, weights=None, depths=(1, 1, 1, 1), embed_dim=24
    )
    maps = find_maps(encoder, 3)
    pyramid = StridePyramid(maps, 64)
    features = encoder(torch.rand(2, 3, 64, 96))
    for index, ours in zip(maps.indices, pyramid(features), strict=False):
        expected = nn.functional.layer_norm(features[index].movedim(1, -1), features[index].shape[1:2])
        torch.testing.assert_close(ours.movedim(1, -1), expected)
    assert len(pyramid.norms) == depth - 1


@pytest.mark.parametrize("name", ["resnet18", "tu-convnext_atto", "tu-swinv2_tiny_window8_256"])
def test_other_maps_are_left_as_they_are(name: str) -> None:
    encoder = build_encoder(name, weights=None)
    maps = find_maps(encoder, 3)
    pyramid, features = StridePyramid(maps), encoder(torch.rand(1, 3, 64, 64))
    assert not pyramid.state_dict()
    assert all(ours is features[index] for ours, index in zip(pyramid(features), maps.indices, strict=True))


def test_options_that_timm_does_not_know_are_named() -> None:
    with pytest.raises(ValueError, match=r"'tu-resnet18' with \{'num_query': 50\} can not be built.*num_query"):
        build_encoder("tu-resnet18", weights=None, num_query=50)


def test_smps_own_output_stride() -> None:
    maps = find_maps(build_encoder("resnet18", weights=None, output_stride=8), 3)
    assert maps.indices == (2, 5)


def test_of_a_dilated_encoder_the_deepest_map_counts() -> None:
    maps = find_maps(FakeEncoder((1, 3), (2, 8), (4, 16), (8, 24), (8, 32), (8, 40)), 3)
    assert maps.indices == (2, 5)
    assert maps.channels == (16, 40)
    assert StridePyramid(maps, 64).channels == (16, 40, 64, 64)


def test_empty_maps_are_left_out() -> None:
    assert find_maps(FakeEncoder((1, 3), (2, 0), (4, 8), (8, 16), (16, 24), (32, 40)), 3).indices == (2, 3, 4, 5)


def test_the_size_that_the_encoder_wants_is_found() -> None:
    maps = ((4, 8), (8, 16), (16, 24), (32, 40))
    assert find_maps(FakeEncoder(*maps), 3).size_multiple == 32
    assert find_maps(FakeEncoder(*maps, multiple=224), 3).size_multiple == 224
    with pytest.raises(ValueError, match=r"takes no image whose sides.*must be multiples of 960"):
        find_maps(FakeEncoder(*maps, multiple=960), 3)


def test_encoders_without_the_strides_are_refused() -> None:
    for maps in [((8, 16), (16, 24), (32, 40)), ((4, 8), (16, 24))]:
        with pytest.raises(ValueError, match=r"FakeEncoder has maps at strides.*such as 'resnet50'"):
            find_maps(FakeEncoder(*maps), 3)
    for name in ("tu-levit_128s", "tu-xcit_nano_12_p16_224"):
        with pytest.raises(ValueError, match=rf"{name}.*such as 'resnet50'"):
            build_encoder(name, weights=None)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="unknown encoder 'resnet51'; did you mean 'resnet50'"):
        build_encoder("resnet51")
    with pytest.raises(ValueError, match="unknown encoder 'convnext_tiny'; did you mean 'tu-convnext_tiny'"):
        build_encoder("convnext_tiny")
    with pytest.raises(ValueError, match="timm has no model 'convnext_tinny'; did you mean 'tu-convnext_tiny'"):
        build_encoder("tu-convnext_tinny")


def test_unknown_weights_and_ignored_options() -> None:
    with pytest.raises(ValueError, match="Wrong pretrained weights `imagenet22k`"):
        build_encoder("resnet18", weights="imagenet22k")
    with pytest.raises(ValueError, match=r"nor encoder 'resnet18' knows \['drop_path_rate'\]: leave out"):
        build_encoder("resnet18", weights=None, drop_path_rate=0.1)


@pytest.mark.parametrize("name", ["resnet18", "tu-resnet18"])
def test_no_network_is_one_sentence(name: str) -> None:
    with pytest.raises(ConnectionError, match=f"weights 'imagenet' of encoder '{name}' could not be fetched"):
        build_encoder(name)
