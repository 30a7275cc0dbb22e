from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtaclip_plugin import MTACLIP, MTACLIPLoss
from mtaclip_plugin.weights.mask2former import SkippedWeight, load_mask2former

transformers = pytest.importorskip("transformers", reason="the model whose weights are loaded is not installed")

NUM_POINTS = 40
LAYERS = 4
OPTIONS = {
    "encoder_name": "resnet18",
    "encoder_weights": None,
    "classes": 4,
    "text_encoder": None,
    "num_queries": 10,
    "decoder_channels": 64,
    "pixel_decoder_layers": 2,
    "pixel_decoder_ffn": 96,
    "decoder_layers": LAYERS,
    "decoder_ffn": 128,
    "num_heads": 4,
}


def make_model(**changes) -> MTACLIP:
    return MTACLIP(**OPTIONS | changes).eval()


SWIN = {"embed_dim": 64, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 4}
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def make_oracle(backbone: Any = None, **swin: Any) -> nn.Module:
    """A random Mask2Former; every weight matters to its output. Its own Swin has the channels of a ResNet-18."""
    backbone = backbone or transformers.SwinConfig(**SWIN | swin, out_features=STAGES)
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=64,
        mask_feature_size=64,
        hidden_dim=64,
        encoder_layers=2,
        encoder_feedforward_dim=96,
        decoder_layers=LAYERS + 1,
        dim_feedforward=128,
        num_attention_heads=4,
        num_queries=10,
        num_labels=4,
        train_num_points=NUM_POINTS,
    )
    model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sampling_offsets.weight" in name:
                parameter.normal_(std=0.2)  # times tokens of 64 values of about 1: offsets of a few cells
            elif "attention_weights.weight" in name:
                parameter.normal_(std=0.3)
            else:
                parameter.add_(0.08 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def oracle() -> nn.Module:
    """Shared by the tests that only read it."""
    torch.manual_seed(0)
    return make_oracle()


def make_maps(height: int, width: int) -> list[Tensor]:
    """Random maps of two images as a ResNet-18 has them, at strides 4 to 32."""
    shapes = [(64, 4), (128, 8), (256, 16), (512, 32)]
    return [torch.randn(2, channels, -(-height // s), -(-width // s)) for channels, s in shapes]


class FixedMaps(nn.Module):
    """Stands for the encoder of both models."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, image: Tensor) -> object:
        return self.output


def feed(model: MTACLIP, oracle: nn.Module, maps: list[Tensor]) -> None:
    """Puts the same maps in both models' encoder's place."""
    oracle.model.pixel_level_module.encoder = FixedMaps(SimpleNamespace(feature_maps=maps))
    model.encoder = FixedMaps([None, None, *maps])  # a ResNet also gives the image and a map at stride 2


def predictions_of(oracle: nn.Module, image: Tensor) -> list[dict[str, Tensor]]:
    output = oracle(image, output_auxiliary_logits=True)
    last = {
        "masks_queries_logits": output.masks_queries_logits,
        "class_queries_logits": output.class_queries_logits,
    }
    return [*output.auxiliary_logits, last]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(64, 96), (107, 75)])
@torch.no_grad()
def test_every_layer_equals_transformers(size, dtype) -> None:
    oracle, model = make_oracle().to(dtype), make_model().to(dtype)
    load_mask2former(model, oracle)
    feed(model, oracle, [m.to(dtype) for m in make_maps(*size)])
    image = torch.zeros(2, 3, *size, dtype=dtype)
    expected = predictions_of(oracle, image)
    layers = model(image, return_masks=True).layers
    assert len(layers) == len(expected) == LAYERS + 1
    for layer, theirs in zip(layers, expected, strict=True):
        # Neither everything nor nothing is inside the masks, so that the attention masks matter.
        assert 0.1 < (theirs["masks_queries_logits"] > 0).double().mean() < 0.9
        assert theirs["class_queries_logits"].std() > 0.2
        torch.testing.assert_close(layer.mask_logits, theirs["masks_queries_logits"], atol=1e-4, rtol=0)
        torch.testing.assert_close(layer.class_logits, theirs["class_queries_logits"], atol=1e-4, rtol=0)
    assert not torch.allclose(layers[0].class_logits, layers[-1].class_logits, atol=0.1)


@pytest.mark.parametrize("size", [(64, 96), (96, 32)])
def test_matching_and_loss_terms_equal_transformers(size, monkeypatch) -> None:
    oracle, model = make_oracle(), make_model()
    load_mask2former(model, oracle)
    feed(model, oracle, make_maps(*size))
    image = torch.zeros(2, 3, *size)
    prediction, expected = model(image, return_masks=True), predictions_of(oracle, image)
    rows, columns = (torch.arange(s) // 16 for s in size)
    target = torch.stack([(rows[:, None] + columns) % 3, 3 * ((rows[:, None] * columns) % 2)])
    classes = [labels.unique() for labels in target]
    masks = [(labels == k[:, None, None]).float() for labels, k in zip(target, classes, strict=True)]

    # Theirs are drawn for each image or mask, ours for each image: give everybody the same ones.
    pool = torch.rand(3 * NUM_POINTS, 2)
    monkeypatch.setattr(torch, "rand", lambda rows, points, _, **options: pool[-points:].expand(rows, -1, -1).clone())
    loss = MTACLIPLoss(num_points=NUM_POINTS)
    matches = loss.matcher(prediction.layers, loss._targets(target, 4, size))
    for queries, theirs in zip(matches.queries, expected, strict=True):
        assigned = oracle.criterion.matcher(**theirs, mask_labels=masks, class_labels=classes)
        assert queries.tolist() == torch.cat([query[mask.argsort()] for query, mask in assigned]).tolist()

    terms = loss.terms(prediction, target)
    last = expected.pop()
    their_terms = oracle.get_loss_dict(**last, mask_labels=masks, class_labels=classes, auxiliary_predictions=expected)
    suffixes = [*(f"_{i}" for i in range(LAYERS)), ""]
    names = {"class": "loss_cross_entropy", "mask": "loss_mask", "dice": "loss_dice"}
    assert len(terms) == len(their_terms) == 3 * len(suffixes)
    for index, suffix in enumerate(suffixes):
        for ours, theirs in names.items():
            torch.testing.assert_close(terms[f"{index}/{ours}"], their_terms[theirs + suffix], atol=1e-4, rtol=0)


def test_report_names_every_parameter_of_the_decoder_once(oracle) -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_mask2former(model, oracle)
    assert set(report.copied) == {name for name in before if name.startswith("decoder.")}
    assert len(set(report.copied)) == len(report.copied)
    assert report.skipped == (SkippedWeight("encoder", "another encoder: 'swin' there, 'resnet18' here"),)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(report.copied)


@pytest.mark.parametrize("shard_size", ["5GB", "200KB"])
def test_folder_gives_the_same_without_transformers(oracle, tmp_path, monkeypatch, shard_size) -> None:
    direct, model = make_model(), make_model()
    expected = load_mask2former(direct, oracle)
    oracle.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_size == "200KB")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert load_mask2former(model, str(tmp_path)) == expected
    for ours, theirs in zip(model.decoder.parameters(), direct.decoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "labels", "reason"),
    [
        ({"classes": 5}, None, "4 classes there, 5 here"),
        (
            {"class_names": ["wall", "sky", "path", "bed"]},
            ["wall", "sky", "road, route", "bed"],
            "class 2 is 'road, route'",
        ),
        ({"class_names": ["wall", "sky", "Route", "bed"]}, ["wall", "sky ", "road, route", "bed"], None),
        ({"class_names": ["wall", "sky", "path", "bed"]}, None, None),
        ({}, ["wall", "sky", "road, route", "bed"], None),
    ],
)
def test_class_head_is_copied_for_the_same_classes_only(oracle, monkeypatch, options, labels, reason) -> None:
    model = make_model(**options)
    before = model.decoder.mask_text_decoder.head.class_head.weight.clone()
    if labels is not None:
        monkeypatch.setattr(oracle.config, "id2label", dict(enumerate(labels)))
    report = load_mask2former(model, oracle)
    skipped = {entry.name: entry.reason for entry in report.skipped if entry.name != "encoder"}
    heads = {f"decoder.tokens.head.class_head.{kind}" for kind in ("weight", "bias")}
    assert skipped.keys() == (heads if reason else set())
    assert all(reason in text for text in skipped.values())
    assert torch.equal(model.decoder.mask_text_decoder.head.class_head.weight, before) == (reason is not None)


def test_text_parts_are_skipped_and_the_mask_path_is_copied(oracle) -> None:
    model = make_model(text_encoder="bank", text_embeddings=torch.randn(2, 5, 16), class_names=list("abcd"))
    report = load_mask2former(model, oracle)
    assert set(report.copied) == {f"decoder.{name}" for name in make_model().decoder.state_dict()}
    skipped = {entry.name: entry.reason for entry in report.skipped[1:]}
    assert skipped.keys() | set(report.copied) == {f"decoder.{name}" for name in model.decoder.state_dict()}
    assert set(skipped.values()) == {"Mask2Former has no such part"}


def test_projections_of_another_encoders_maps_are_skipped() -> None:
    report = load_mask2former(make_model(), make_oracle(embed_dim=32))
    pixel_decoder = "decoder.pixels"
    assert {entry.name: entry.reason for entry in report.skipped[1:]} == {
        f"{pixel_decoder}.lateral.0.weight": "another encoder: (64, 32, 1, 1) there, (64, 64, 1, 1) here",
        f"{pixel_decoder}.input_projections.0.0.weight": "another encoder: (64, 256, 1, 1) there, (64, 512, 1, 1) here",
        f"{pixel_decoder}.input_projections.1.0.weight": "another encoder: (64, 128, 1, 1) there, (64, 256, 1, 1) here",
        f"{pixel_decoder}.input_projections.2.0.weight": "another encoder: (64, 64, 1, 1) there, (64, 128, 1, 1) here",
    }


@pytest.mark.parametrize(
    ("options", "changes", "sentence"),
    [
        ({}, {"feature_size": 128}, "decoder_channels=64, but 128 .*feature_size"),
        ({}, {"mask_feature_size": 32}, "decoder_channels=64, but 32 .*mask_feature_size"),
        ({"decoder_channels": 128}, {}, "decoder_channels=128, but 64"),
        ({"decoder_layers": 3}, {}, "decoder_layers=3, but 4"),
        ({"pixel_decoder_layers": 1}, {}, "pixel_decoder_layers=1, but 2"),
        ({"pixel_decoder_ffn": 64}, {}, "pixel_decoder_ffn=64, but 96"),
        ({"decoder_ffn": 64}, {}, "decoder_ffn=64, but 128"),
        ({"num_heads": 8}, {}, "num_heads=8, but 4"),
        ({"num_queries": 20}, {}, "num_queries=20, but 10"),
        ({"pixel_decoder": "fpn"}, {}, "pixel_decoder='deformable'"),
        ({}, {"pre_norm": True}, "pre_norm=False fits, got True"),
        ({}, {"activation_function": "gelu"}, "activation_function='relu' fits, got 'gelu'"),
        ({}, {"common_stride": 8}, "common_stride=4 fits, got 8"),
    ],
)
def test_other_sizes_are_refused_and_change_nothing(oracle, monkeypatch, options, changes, sentence) -> None:
    model = make_model(**options)
    for key, value in changes.items():
        monkeypatch.setattr(oracle.config, key, value)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=sentence):
        load_mask2former(model, oracle)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_other_sources_are_refused(oracle, tmp_path) -> None:
    model = make_model()
    with pytest.raises(ValueError, match="model_type='mask2former' fits, got None"):
        load_mask2former(model, nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"no weight 'model.*no Mask2FormerForUniversalSegmentation"):
        load_mask2former(model, oracle.model)
    with pytest.raises(FileNotFoundError, match=r"lacks config\.json or safetensors"):
        load_mask2former(model, tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder 'no/such/folder'"):
        load_mask2former(model, "no/such/folder")
    with pytest.raises(ConnectionError, match=r"'facebook/mask2former.* connect to the network"):
        load_mask2former(model, "facebook/mask2former-swin-tiny-ade-semantic")
    oracle.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "maskformer"}))
    with pytest.raises(ValueError, match="got 'maskformer'"):
        load_mask2former(model, tmp_path)
    settings = {key: value for key, value in oracle.config.to_dict().items() if key != "hidden_dim"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"configuration lacks \['hidden_dim'\]"):
        load_mask2former(model, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"can not be read .* fetch or save them again"):
        load_mask2former(model, tmp_path)
