from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.export import Dim

import mtaclip_plugin as mta
from mtaclip_plugin.inference import bands, class_probabilities, semantic_labels, semantic_logits
from mtaclip_plugin.text.clip import create_clip

NAMES = ["cat", "dog", "red bus"]


def small_model(text_encoder: str | None = "tiny-rn", encoder_name: str = "resnet18", **options: Any) -> mta.MTACLIP:
    torch.manual_seed(0)
    return mta.MTACLIP(
        encoder_name,
        encoder_weights=None,
        **{"classes": 3, "class_names": NAMES, "text_pretrained": None, "clip_masks_pretrained": None} | options,
        text_encoder=text_encoder,
        num_prompts=2,
        context_length=2,
        num_queries=4,
        decoder_channels=64,
        pixel_decoder="fpn",
        decoder_layers=1,
        decoder_ffn=64,
        num_heads=2,
    ).eval()


def masks_of(model: mta.MTACLIP, images: Tensor) -> mta.MaskPrediction:
    with torch.no_grad():
        return model(images, return_masks=True)


@pytest.mark.parametrize("way", ["pool", "crop"])
def test_scores_are_those_of_both(way: str) -> None:
    """Against the same model without, and the tower asked by hand."""
    model, plain = small_model(clip_masks=way), small_model()
    images = torch.randn(2, 3, 50, 70)
    prediction, without = masks_of(model, images), masks_of(plain, images)
    said = prediction.clip_probabilities
    assert without.clip_probabilities is None and said.shape == (2, 4, 3) and said.std() > 1e-3
    decoder = class_probabilities(without)
    assert torch.equal(class_probabilities(replace(prediction, clip_probabilities=None)), decoder)
    classes = decoder[..., :-1] ** 0.6 * said**0.4
    classes = classes / classes.sum(-1, keepdim=True) * (1 - decoder[..., -1:])
    asked = (said < 1).any(-1)
    torch.testing.assert_close(class_probabilities(prediction)[..., :-1][asked], classes[asked])
    logits = model(images)
    assert torch.equal(logits, semantic_logits(prediction))
    assert not torch.allclose(logits, plain(images), atol=1e-3)
    assert torch.equal(model.predict_labels(images), logits.argmax(1))
    model.scoring = replace(model.scoring, trained_clip=0.0)
    torch.testing.assert_close(model(images), plain(images))


def test_what_is_said_does_not_depend_on_how_images_are_normalised() -> None:
    """A mask that is everywhere is what CLIP says of the image as its own preprocessing has it."""
    clip = create_clip("tiny-rn", None).eval()
    images = torch.rand(2, 3, 64, 64)
    own = [torch.tensor(colour).view(3, 1, 1) for colour in (clip.visual.image_mean, clip.visual.image_std)]
    with torch.no_grad():
        seen = clip.encode_image((images - own[0]) / own[1], normalize=True)
    for options in ({}, {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}):
        model = small_model(clip_masks="pool", **options)
        with torch.no_grad():
            text = torch.nn.functional.normalize(model.prompts()[:, :-1], dim=-1)
            cosines = torch.einsum("bt,pkt->bpk", seen, text).amax(1)
        expected = (cosines * clip.logit_scale.exp()).softmax(-1)
        colours = mta.preprocessing(model)
        given = (images - torch.tensor(colours.mean).view(3, 1, 1)) / torch.tensor(colours.std).view(3, 1, 1)
        assert options == {} or (list(colours.mean), list(colours.std)) == tuple(options.values())
        prediction = masks_of(model, given)
        everywhere = replace(prediction, mask_embed=torch.ones(2, 1, 1), mask_features=torch.ones(2, 1, 16, 16))
        said = model._clip_masks.ask(given, everywhere, model.text_embeddings, torch.ones(2, 1, 4))
        torch.testing.assert_close(said[:, 0], expected, atol=1e-5, rtol=1e-5)


def test_bands_and_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = small_model(clip_masks="pool"), torch.randn(2, 3, 50, 70)
    whole = model(images)
    monkeypatch.setattr(bands, "BAND_BYTES", 20_000)
    with torch.no_grad():
        torch.testing.assert_close(model(images), whole)
    labels = semantic_labels(masks_of(model, images), model.current_scoring())
    assert torch.equal(labels, whole.argmax(1)) and torch.equal(model.predict_labels(images), labels)


def test_names_that_were_never_trained_have_a_weight_of_their_own() -> None:
    model = small_model(clip_masks="pool", trained_clip=0.25, untrained_clip=0.75)
    model.set_class_names(["dog", "zebra", "cat", "green boat"])
    images = torch.randn(2, 3, 64, 64)
    prediction = masks_of(model, images)
    said, text = prediction.clip_probabilities, prediction.text_logits.amax(2).softmax(-1)
    assert said.shape == (2, 4, 4)
    weights = torch.tensor([0.25, 0.75, 0.25, 0.75])
    classes = (text[..., :-1] / text[..., :-1].sum(-1, keepdim=True)) ** (1 - weights) * said**weights
    classes = classes / classes.sum(-1, keepdim=True) * (1 - text[..., -1:])
    asked = (said < 1).any(-1)
    assert asked.any()
    ours = class_probabilities(prediction, model.current_scoring())
    torch.testing.assert_close(ours[..., :-1][asked], classes[asked])
    torch.testing.assert_close(ours[~asked], text[~asked])
    torch.testing.assert_close(ours[..., -1], text[..., -1])


def test_the_tower_is_no_part_of_the_model_and_training_never_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain = small_model(clip_masks="pool"), small_model()
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    tower = model._clip_masks.tower
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    monkeypatch.setattr(tower, "unpooled", lambda images: pytest.fail("it ran"))
    model.train()
    assert not tower.training
    images = torch.randn(2, 3, 64, 64)
    prediction = model(images, return_masks=True)
    assert prediction.clip_probabilities is None
    mta.MTACLIPLoss()(prediction, torch.zeros(2, 64, 64, dtype=torch.long)).backward()
    model(images)


def test_masks_without_a_weight_are_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(clip_masks="pool", text_masks=1.0, query_scores=0.0)
    monkeypatch.setattr(model._clip_masks.tower, "unpooled", lambda images: pytest.fail("it ran"))
    assert masks_of(model, torch.randn(2, 3, 64, 64)).clip_probabilities is None


def test_off_there_is_no_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    create = open_clip.create_model
    monkeypatch.setattr(open_clip, "create_model", lambda *a, **k: built.append(a) or create(*a, **k))
    model = small_model()
    assert model._clip_masks is None and built == [("tiny-rn",)]
    small_model(clip_masks="pool")
    assert len(built) == 2  # one for both sides


@pytest.mark.parametrize("way", ["pool", "crop"])
@pytest.mark.parametrize("baked", [False, True])
def test_saving_and_loading(way: str, baked: bool, tmp_path: Path) -> None:
    model = small_model(clip_masks=way, trained_clip=0.3, untrained_clip=0.6, image_mean=[0.1, 0.2, 0.3])
    images = torch.randn(2, 3, 50, 70)
    logits = model(images)
    if baked:
        model.bake_text()
        assert (model.config["clip_masks_tower"], model.config["clip_masks_pretrained"]) == ("tiny-rn", None)
        assert torch.equal(model(images), logits)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["clip_masks"], config["trained_clip"], config["untrained_clip"]) == (way, 0.3, 0.6)
    assert config["image_mean"] == [0.1, 0.2, 0.3] and config["image_std"] == pytest.approx([0.229, 0.224, 0.225])
    loaded = smp.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(images), logits)


def test_a_bank_names_its_tower() -> None:
    bank = torch.randn(2, 4, 24)
    model = small_model("bank", text_embeddings=bank, clip_masks="pool", clip_masks_tower="tiny-convnext")
    assert masks_of(model, torch.randn(2, 3, 64, 64)).clip_probabilities.shape == (2, 4, 3)
    with pytest.raises(ValueError, match="name the model in clip_masks_tower, such as 'ViT-B-16', and its weights in"):
        small_model("bank", text_embeddings=bank, clip_masks="pool")
    with pytest.raises(ValueError, match=r"embeddings of T=24 numbers, the text has T=23; name the open_clip model"):
        small_model("bank", text_embeddings=bank[..., :-1], clip_masks="crop", clip_masks_tower="tiny-rn")


@pytest.mark.parametrize(
    ("text_encoder", "options", "message"),
    [
        (None, {}, "clip_masks compares masks with text, but text_encoder is None"),
        ("tiny-rn", {"clip_masks": "polo"}, "clip_masks must be one of 'pool', 'crop', got 'polo'"),
        ("tiny-rn", {"clip_masks_tower": "tiny-flat"}, "clip_masks_tower='tiny-flat' is not the open_clip model that"),
        ("tiny-rn", {"in_channels": 4}, "shows the images to CLIP, which takes 3 channels; the model takes 4"),
        ("tiny-rn", {"classes": 1, "class_names": ["cat"]}, "compares classes with each other, of which there is one"),
        ("tiny-rn", {"trained_clip": 1.5}, "trained_clip must"),
        ("tiny-relative", {}, "VisionTransformerRelPos does not, or has no map: take clip_masks='crop'"),
    ],
)
def test_bad_options_are_told(text_encoder: str | None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_model(text_encoder, **{"clip_masks": "pool"} | options)


def test_centred_text_is_not_what_clip_is_asked_with() -> None:
    images = torch.randn(2, 3, 64, 64)
    centred, plain = (small_model(clip_masks="pool", center_text=value) for value in (True, False))
    prediction = masks_of(plain, images)
    said = centred._clip_masks.ask(images, prediction, centred.text_embeddings, torch.ones(2, 4, 4))
    torch.testing.assert_close(said, prediction.clip_probabilities)
    seen = []
    ask = centred._clip_masks.ask
    centred._clip_masks.ask = lambda images, masks, text, *rest, **more: (
        seen.append(text) or ask(images, masks, text, *rest, **more)
    )
    masks_of(centred, images)
    torch.testing.assert_close(seen[0], centred.prompts())


@pytest.mark.parametrize(("name", "cell"), [("tiny-rn", 32), ("tiny-class-token", 16), ("tiny-late-mean", 16)])
def test_an_untrained_encoder_and_the_tower_share_their_pass(name: str, cell: int) -> None:
    model = small_model(name, "clip", clip_masks="pool")
    passes = []
    model._clip_masks.tower.visual.conv1.register_forward_hook(lambda *_: passes.append(1))

    def own_passes(size: tuple[int, int]) -> int:
        """How often the tower itself sees images; what it says is the same with its own pass."""
        passes.clear()
        images = torch.randn(2, 3, *size)
        prediction = masks_of(model, images)
        count = len(passes)
        alone = model._clip_masks.ask(images, prediction, model.text_embeddings, class_probabilities(prediction))
        torch.testing.assert_close(alone, prediction.clip_probabilities, atol=1e-5, rtol=1e-5)
        return count

    assert own_passes((64, 96)) == 0
    assert own_passes((50, 70)) == 1  # the encoder sees padding, the tower does not
    model.freeze_encoder()
    model.train()
    model.eval()
    assert own_passes((64, 96)) == 0
    model.unfreeze_encoder()
    model.train()
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    torch.optim.SGD(model.encoder.parameters(), lr=1e-3).step()
    model.eval()
    assert own_passes((64, 96)) == 1


def test_what_is_not_the_tower_shares_nothing() -> None:
    other_colours = small_model("tiny-rn", "clip", clip_masks="pool", image_mean=[0.5, 0.5, 0.5])
    fewer_stages = small_model("tiny-rn", "clip", clip_masks="pool", encoder_depth=4)
    another = small_model("tiny-rn", "clip:tiny-class-token", clip_masks="pool")
    same_by_name = small_model("tiny-rn", "clip:tiny-rn", clip_masks="pool")
    models = (other_colours, fewer_stages, another, same_by_name, small_model(clip_masks="pool"))
    assert [model._clip_masks.shares_encoder for model in models] == [False, False, False, True, False]


def test_the_encoder_of_another_model_is_asked_along() -> None:
    unet = smp.Unet("resnet18", encoder_weights=None, classes=3).eval()
    options = {"text_encoder": "tiny-rn", "text_pretrained": None, "num_prompts": 1, "context_length": 2}
    shape = {"num_queries": 4, "decoder_channels": 64, "pixel_decoder": "fpn", "decoder_layers": 1, "num_heads": 2}
    model = mta.swap_decoder(unet, class_names=NAMES, clip_masks="pool", **options, **shape)
    assert masks_of(model, torch.randn(1, 3, 64, 64)).clip_probabilities.shape == (1, 4, 3)


def test_loaded_weights_of_a_trained_encoder_end_the_sharing() -> None:
    model = small_model("tiny-rn", "clip", clip_masks="pool")
    trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained["encoder.body.stages.4.0.conv1.weight"] += 0.01
    assert model._clip_masks.shares_encoder
    model.load_state_dict(trained)
    assert not model._clip_masks.shares_encoder


@pytest.mark.parametrize("way", ["pool", "crop"])
def test_moving_the_model_moves_the_tower(way: str) -> None:
    model, images = small_model(clip_masks=way), torch.randn(2, 3, 50, 70)
    logits = model(images)
    model.double()
    assert next(model._clip_masks.tower.parameters()).dtype == torch.float64
    torch.testing.assert_close(model(images.double()), logits, atol=1e-4, rtol=1e-4)
    model.bfloat16()
    assert model(images.bfloat16()).isfinite().all()
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images).isfinite().all()
    torch.testing.assert_close(deepcopy(model)(images), model(images))
    model.to("meta")
    assert model._clip_masks.logit_scale.device.type == "meta"


class Asked(torch.nn.Module):
    """What of a model is new to an export."""

    def __init__(self, model: mta.MTACLIP) -> None:
        super().__init__()
        self.ask, self.text = model._clip_masks.ask, model.text_embeddings

    def forward(self, images: Tensor, mask_embed: Tensor, mask_features: Tensor) -> Tensor:
        size = tuple(images.shape[2:])
        prediction = mta.MaskPrediction(mask_embed, mask_embed, mask_features, None, size, size)
        return self.ask(images, prediction, self.text, mask_embed)


@pytest.mark.parametrize(
    "name", ["tiny-rn", "tiny-class-token", "tiny-convnext", "tiny-timm-token", "tiny-attentional"]
)
def test_exporting_towers(name: str) -> None:
    asked = Asked(small_model(name, clip_masks="pool"))

    def inputs(batch: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        features = torch.randn(batch, 5, height // 4, width // 4)
        return torch.randn(batch, 3, height, width), torch.randn(batch, 4, 5), features

    batch, rows, columns = Dim("batch"), Dim("rows"), Dim("columns")
    shapes = ({0: batch, 2: 32 * rows, 3: 32 * columns}, {0: batch}, {0: batch, 2: 8 * rows, 3: 8 * columns})
    exported = torch.export.export(asked, inputs(2, 64, 96), dynamic_shapes=shapes).module()
    for sizes in ((2, 64, 96), (1, 160, 64), (3, 64, 128)):
        given = inputs(*sizes)
        torch.testing.assert_close(exported(*given), asked(*given), atol=1e-5, rtol=1e-5)


def test_exporting_the_model() -> None:
    model, image = small_model("tiny-class-token", "clip", clip_masks="pool"), torch.randn(2, 3, 64, 96)
    exported = torch.export.export(model, (image,)).module()
    with torch.inference_mode():
        torch.testing.assert_close(exported(image), model(image), atol=1e-5, rtol=1e-5)


def test_exporting_crops_is_refused() -> None:
    with pytest.raises(ValueError, match="clip_masks='crop' can not be exported, as it depends on the masks"):
        torch.export.export(small_model(clip_masks="crop"), (torch.randn(2, 3, 64, 96),))


def test_compiling() -> None:
    model = small_model("tiny-class-token", "clip", clip_masks="pool")
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    image = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(image), model(image), atol=1e-5, rtol=1e-5)
