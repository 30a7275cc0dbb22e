from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import denseclip
from benchmarks.denseclip import DenseCLIP, TextSimilarity
from tests.trainers.tiny_runs import TINY, failure, run_training, write_folder
from trainers import evaluate, train
from trainers.assemble import create_model, create_vocabulary, restore_model
from trainers.data.batch import IGNORE_INDEX
from trainers.data.shapes import CLASS_NAMES
from trainers.engine.criteria import MaskCriterion, Part, PixelCriterion, build_criterion
from trainers.engine.forward import Forward
from trainers.models import build_model, reads_bank, text_options
from trainers.options.config import Config
from trainers.options.model_config import ModelConfig
from trainers.run.checkpoints import load_checkpoint
from trainers.text.text_bank import BANKS, load_text_bank


def build(**options: Any) -> DenseCLIP:
    defaults = {"encoder_name": "resnet18", "encoder_weights": None, "classes": 3, "text_embeddings": torch.eye(3, 5)}
    return smp.create_model("denseclip", **(defaults | options))


@pytest.mark.parametrize("encoder_name", ["resnet18", "mobilenet_v2", "tu-convnext_atto", "mit_b0"])
def test_shapes(encoder_name: str) -> None:
    model = build(encoder_name=encoder_name)
    images = torch.rand(3, 3, 64, 96)
    logits, auxiliary = model(images, return_auxiliary=True)
    assert logits.shape == auxiliary.shape == (3, 3, 64, 96)
    model.eval()
    logits, _ = model(images, return_auxiliary=True)
    assert torch.equal(model(images), logits)


def test_all_but_the_score_map_is_an_fpn() -> None:
    model, fpn = build(), smp.FPN("resnet18", encoder_weights=None, classes=3)
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours.pop("projection.weight") == (5, 512, 1, 1) and ours.pop("projection.bias") == (5,)
    assert ours.pop("prompts.embeddings") == (3, 5)
    assert ours.pop("decoder.p5.weight") == (256, 512 + 3, 1, 1)
    theirs = {name: tuple(tensor.shape) for name, tensor in fpn.state_dict().items() if name != "decoder.p5.weight"}
    assert ours == theirs
    # Without the columns of the score map it is one in its numbers, too.
    weights = model.state_dict()
    weights["decoder.p5.weight"] = weights["decoder.p5.weight"][:, :512]
    fpn.load_state_dict({name: weights[name] for name in fpn.state_dict()})
    with torch.no_grad():
        model.decoder.p5.weight[:, 512:] = 0
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(model.eval()(images), fpn.eval()(images))


def test_cosines_by_hand() -> None:
    features = torch.tensor([[3.0, 4.0], [0.0, -2.0]]).T[None, :, None]  # (1, T=2, 1, 2)
    expected = torch.tensor([[[[0.6, 0.0]], [[0.8, -1.0]]]])  # (1, K=2, 1, 2)
    torch.testing.assert_close(TextSimilarity(torch.tensor([[2.0, 0.0], [0.0, 9.0]]))(features), expected)
    # Prompts along both axes, of any length, mean the diagonal; the last row is "none".
    bank = torch.tensor([[[5.0, 0.0], [7.0, 7.0]], [[0.0, 1.0], [7.0, 7.0]]])  # (P=2, K+1=2, T=2)
    diagonal = torch.tensor([[[[7 / 5, -1.0]]]]) / 2**0.5
    torch.testing.assert_close(TextSimilarity(bank)(features), diagonal)


def test_the_auxiliary_logits_are_the_score_map() -> None:
    bank = torch.randn(3, 5)
    model = build(text_embeddings=bank).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        _, auxiliary = model(images, return_auxiliary=True)
        projected = model.projection(model.encoder(images)[-1])
    scores = torch.empty(2, 3, 2, 3)
    for image in range(2):
        for row in range(2):
            for column in range(3):
                pixel = projected[image, :, row, column]
                for label in range(3):
                    cosine = pixel @ bank[label] / (pixel.norm() * bank[label].norm())
                    scores[image, label, row, column] = cosine
    assert scores.abs().max() <= 1
    expected = F.interpolate(scores / 0.07, size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(auxiliary, expected, rtol=1e-4, atol=1e-4)


def test_which_text_stands_in_which_row_matters() -> None:
    model, images = build().eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        logits, auxiliary = model(images, return_auxiliary=True)
        order = [2, 0, 1]
        model.prompts.embeddings = model.prompts.embeddings[order]
        others, permuted = model(images, return_auxiliary=True)
    torch.testing.assert_close(permuted, auxiliary[:, order])
    assert (others - logits).abs().max() > 1e-4


def test_half_precision_keeps_the_cosines() -> None:
    model, images = build().eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits, auxiliary = model(images, return_auxiliary=True)
    assert logits.shape == (1, 3, 64, 64) and auxiliary.dtype == torch.float32


def terms_of(model: nn.Module, labels: Tensor, *, batch_labels: Tensor | None = None) -> dict[str, Tensor]:
    forward = Forward(model, mean=(0.0,) * 3, std=(1.0,) * 3, device=torch.device("cpu"), precision="float32")
    part = Part(torch.zeros(*labels[:, None].shape).expand(-1, 3, -1, -1), labels, labels, [])
    if batch_labels is not None:
        part = Part(part.images, labels, batch_labels, [])
    return build_criterion("DenseCLIP", num_points=64)(forward, part)


class Constant(nn.Module):
    """Logits of two classes, and those of a score map; whatever stands under the last pixel is its own."""

    def __init__(self, last: float = 0.0) -> None:
        super().__init__()
        self.last = last

    def forward(self, images: Tensor, return_auxiliary: bool = False) -> tuple[Tensor, Tensor]:
        assert return_auxiliary
        pair = []
        for difference in (2.0, 1.0):
            logits = torch.tensor([0.0, difference]).view(1, 2, 1, 1).repeat(len(images), 1, 2, 2)
            logits[..., -1, -1] += torch.tensor([self.last, 0.0])
            pair.append(logits)
        return pair[0], pair[1]


def test_criterion_by_hand() -> None:
    labels = torch.tensor([[[1, 1], [0, IGNORE_INDEX]]])
    terms = terms_of(Constant(), labels)
    p, s = (torch.tensor([0.0, difference]).softmax(0) for difference in (2.0, 1.0))
    assert list(terms) == ["cross_entropy", "dice", "score_map"]
    assert terms["cross_entropy"].item() == pytest.approx(-(2 * p[1].log() + p[0].log()).item() / 3)
    assert terms["score_map"].item() == pytest.approx(-0.4 * (2 * s[1].log() + s[0].log()).item() / 3)
    # Of a batch of two such images each is a half.
    half = terms_of(Constant(), labels, batch_labels=labels.expand(2, -1, -1))
    assert all(half[name].item() == pytest.approx(term.item() / 2) for name, term in terms.items())


def test_ignored_pixels_do_not_change_the_loss() -> None:
    labels = torch.tensor([[[1, 1], [0, IGNORE_INDEX]]])
    assert terms_of(Constant(last=5.0), labels) == terms_of(Constant(), labels)
    nothing = torch.full((1, 2, 2), IGNORE_INDEX)
    assert [term.item() for term in terms_of(Constant(), nothing).values()] == [0, 0, 0]


def test_which_architecture_has_which_criterion() -> None:
    assert type(build_criterion("MTACLIP", num_points=64)) is MaskCriterion
    assert type(build_criterion("denseclip")) is denseclip.DenseCLIPCriterion
    assert type(build_criterion("upernet", num_points=64)) is PixelCriterion


def test_which_architecture_is_told_of_the_text() -> None:
    own = {field.name for field in fields(ModelConfig)} - {"arch"}
    assert own <= text_options("mtaclip")  # what it did not name would be left out without a word
    assert own & text_options("DenseCLIP") == {"encoder_name", "encoder_weights", "text_embeddings"}
    assert text_options("upernet") == text_options("upsidedownnet") == frozenset()
    assert [reads_bank("mtaclip", text) for text in ("bank", "ViT-B-16", None)] == [True, False, False]
    assert all(reads_bank("denseclip", text) for text in ("bank", "ViT-B-16", None))
    assert not reads_bank("unet", "bank")


def test_peers_keep_their_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(smp, "create_model", lambda arch, **options: given.update(options) or nn.Identity())
    config = Config(model=ModelConfig(arch="upernet", encoder_weights=None))
    create_model(config, create_vocabulary(config, CLASS_NAMES))
    encoder = {"encoder_name": "tu-tf_efficientnet_lite0", "encoder_weights": None, "in_channels": 3}
    assert given == encoder | {"classes": len(CLASS_NAMES)}


@pytest.mark.parametrize("text_encoder", ["bank", "ViT-B-16", None])
def test_the_text_is_always_a_bank(text_encoder: str | None) -> None:
    config = Config(model=ModelConfig(arch="denseclip", encoder_weights=None, text_encoder=text_encoder))
    model = create_model(config, create_vocabulary(config, CLASS_NAMES))
    assert isinstance(model, DenseCLIP) and model.class_names == list(CLASS_NAMES)
    bank = load_text_bank(BANKS["shapes"], CLASS_NAMES)
    torch.testing.assert_close(model.prompts.embeddings, F.normalize(bank, dim=-1))


def test_a_run_leaves_a_checkpoint_that_needs_no_bank(tmp_path: Path) -> None:
    bank = np.random.default_rng(0).normal(size=(2, len(CLASS_NAMES) + 1, 6)).astype(np.float32)
    np.save(tmp_path / "bank.npy", bank)
    options = ["--model.arch=denseclip", f"--model.text_embeddings={tmp_path / 'bank.npy'}"]
    folder = run_training(tmp_path / "run", *options, "--model.text_encoder=null")
    (tmp_path / "bank.npy").unlink()
    last = load_checkpoint(folder / "last.pt")
    model = restore_model(last)
    assert isinstance(model, DenseCLIP) and model.prompts.embeddings.shape == (len(CLASS_NAMES), 6)
    assert all(torch.equal(tensor, last.weights[name]) for name, tensor in model.state_dict().items())
    scores = evaluate.evaluate(last, root=None, split=None, device="cpu")
    assert last.validation.scores is not None
    assert scores.mean_iou == pytest.approx(last.validation.scores.mean_iou, abs=1e-6)


def test_other_names_are_told_by_the_score_map_alone() -> None:
    bank, images = torch.randn(4, 5), torch.rand(2, 3, 64, 96)
    model = build(class_names=["sky", "road", "car"], text_embeddings=bank[:3]).eval()
    with torch.no_grad():
        trained, auxiliary = model(images, return_auxiliary=True)
        model.set_text_embeddings(bank, ["sky", "road", "car", "tree"])
        logits = model(images)
        torch.testing.assert_close(logits[:, :3], auxiliary)
        model.set_text_embeddings(bank[[3, 1]], ["tree", "road"])
        torch.testing.assert_close(model(images), logits[:, [3, 1]])
        model.set_text_embeddings(bank[:3], ["sky", "road", "car"])
        assert torch.equal(model(images), trained)


def test_a_run_keeps_classes_from_training(tmp_path: Path) -> None:
    unseen = f"--data.unseen=[{CLASS_NAMES[2]}, {CLASS_NAMES[5]}]"
    last = load_checkpoint(run_training(tmp_path / "run", "--model.arch=denseclip", unseen) / "last.pt")
    assert last.weights["prompts.embeddings"].shape == (len(CLASS_NAMES) - 2, 384)
    assert last.validation.scores is not None and last.validation.scores.zero_shot is not None
    scores = evaluate.evaluate(last, root=None, split=None, device="cpu")
    assert repr(scores.zero_shot) == repr(last.validation.scores.zero_shot)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    denseclip.register()
    model, images = build().eval(), torch.rand(1, 3, 64, 64)
    model.save_pretrained(tmp_path)
    loaded = smp.from_pretrained(tmp_path, text_embeddings=torch.zeros(3, 5)).eval()
    assert torch.equal(loaded(images), model(images))


def test_mistakes_are_told_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"^DenseCLIP needs text_embeddings=, a tensor or a \.npy"):
        build(text_embeddings=None)
    with pytest.raises(ValueError, match=r"of shape \(2, 5\) for 3 classes; expected \(K, T\) = \(3, T\)"):
        build(text_embeddings=torch.eye(2, 5))
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        build(class_names=["sky", "road"])
    with pytest.raises(ValueError, match="unknown encoder 'clip'"):
        build_model(
            "denseclip",
            encoder_name="clip",
            encoder_weights=None,
            class_names=["sky"],
            text_embeddings=torch.eye(1),
        )
    with pytest.raises(ValueError, match="no names to compare with"):
        build().set_text_embeddings(torch.eye(2, 5), ["sky", "road"])
    with pytest.raises(ValueError, match="T=4 numbers each, the model takes T=5"):
        build(class_names=["sky", "road", "car"]).set_text_embeddings(torch.eye(3, 4))
    with pytest.raises(RuntimeError, match="divisible by 32"):
        build().eval()(torch.rand(1, 3, 64, 65))
    write_folder(tmp_path / "data", labels=[0, 1])
    data = ["--data.dataset=folder", f"--data.root={tmp_path / 'data'}", f"--train.output={tmp_path / 'run'}"]
    line = failure(train.main, [*TINY, *data, "--model.arch=denseclip"], capsys)
    assert line.endswith("such as python -m trainers.text.text_bank writes.")
