"""What smp promises of its models, of this one.

smp asks of each of its own: forward and backward, channels, depth and classes, the classification head, any size of
image, saving and loading, compiling, exporting, and scripting or its refusal. All are here, the last ones at the end.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch.export import Dim

import mtaclip_plugin as mta
from tests.test_model import NAMES, SMALL, build

MULTIPLES_OF_32 = {0: Dim("batch"), 2: 32 * Dim("height", min=2), 3: 32 * Dim("width", min=2)}
SHALLOW = {"decoder_layers": 1}


@pytest.mark.parametrize("in_channels", [1, 3, 4])
@pytest.mark.parametrize("encoder_depth", [3, 4, 5])
@pytest.mark.parametrize("classes", [1, 3])
def test_channels_depth_and_classes(in_channels: int, encoder_depth: int, classes: int) -> None:
    names = None if classes == 1 else ["cat", "dog", "tree"]
    model = build(in_channels=in_channels, encoder_depth=encoder_depth, classes=classes, class_names=names)
    logits = model(torch.randn(2, in_channels, 64, 64))
    assert logits.shape == (2, classes, 64, 64)
    logits.mean().backward()
    assert model.encoder.conv1.weight.grad.any()


def test_forward_and_backward_of_the_default_number_of_classes() -> None:
    options = {name: value for name, value in SMALL.items() if name != "encoder_name"}
    tower = {"text_encoder": "tiny-flat", "text_pretrained": None}
    model = smp.create_model(arch="mtaclip", encoder_name="tu-test_resnet.r160_in1k", **options, **tower)
    output = model(torch.rand(1, 3, 64, 64))
    assert output.shape == (1, 1, 64, 64) and model.class_names == ["foreground"]
    output.mean().backward()
    assert next(model.encoder.parameters()).grad.any() and model.prompts.contexts.grad.any()


def test_classification_head() -> None:
    model = build(aux_params={"pooling": "avg", "classes": 5, "dropout": 0.5, "activation": "sigmoid"})
    pooling, _, dropout, linear, activation = model.classification_head
    assert isinstance(pooling, torch.nn.AdaptiveAvgPool2d) and isinstance(linear, torch.nn.Linear)
    assert dropout.p == 0.5 and isinstance(activation.activation, torch.nn.Sigmoid)
    logits, labels = model(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 3, 64, 64) and labels.shape == (2, 5)
    assert (labels > 0).all() and (labels < 1).all()
    labels.sum().backward()
    assert model.encoder.conv1.weight.grad.any()


@pytest.mark.parametrize("size", [(64, 64), (65, 31), (1, 100), (7, 7)])
def test_any_resolution(size: tuple[int, int]) -> None:
    assert not mta.MTACLIP.requires_divisible_input_shape
    model = build()
    assert model(torch.randn(2, 3, *size)).shape == (2, 3, *size)
    assert model.predict(torch.randn(2, 3, *size)).shape == (2, 3, *size)


def test_saving_with_metrics_and_dataset_in_the_card(tmp_path: Path) -> None:
    model = build().eval()
    image = torch.randn(1, 3, 50, 70)
    model.save_pretrained(tmp_path, metrics={"mIoU": 0.625}, dataset="CamVid")
    card = (tmp_path / "README.md").read_text()
    assert '"mIoU": 0.625' in card and "Dataset name: CamVid" in card and '"encoder_name": "resnet18"' in card
    assert json.loads((tmp_path / "config.json").read_text())["_model_class"] == "MTACLIP"
    restored = smp.from_pretrained(tmp_path)
    assert isinstance(restored, mta.MTACLIP) and not restored.training
    assert torch.equal(restored(image), model(image))


def test_loading_for_another_number_of_classes_names_what_does_not_fit() -> None:
    other = build(classes=2, class_names=["cat", "dog"])
    model = build()
    with pytest.warns(UserWarning, match=r"class_head.weight: torch.Size\(\[3, 64\]\) \(weights\)"):
        model.load_state_dict(other.state_dict(), strict=False)
    assert torch.equal(model.prompts.contexts, other.prompts.contexts)


def test_evaluation_is_the_same_after_training_beside_a_frozen_encoder() -> None:
    model = build(encoder_name="tu-convnext_atto", drop_path_rate=0.9, decoder_layers=1).eval()
    image = torch.randn(2, 3, 64, 64)
    before = model(image)
    model.freeze_encoder()
    model.train()
    features = model.encoder(image)
    model(image).mean().backward()
    assert all(torch.equal(f, g) for f, g in zip(model.encoder(image), features, strict=True))
    assert torch.equal(model.eval()(image), before) and torch.equal(model(image), before)
    assert all(parameter.grad is None for parameter in model.encoder.parameters())


def test_a_frozen_encoder_keeps_its_statistics() -> None:
    model = build()
    model.freeze_encoder()
    statistics = model.encoder.bn1.running_mean.clone()
    model.train()(torch.randn(2, 3, 64, 64) + 5)
    assert torch.equal(model.encoder.bn1.running_mean, statistics)
    model.unfreeze_encoder()
    model(torch.randn(2, 3, 64, 64) + 5)
    assert not torch.equal(model.encoder.bn1.running_mean, statistics)


def test_compiling() -> None:
    assert mta.MTACLIP._is_torch_compilable
    model = build(**SHALLOW).eval()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    with torch.inference_mode():
        for shape in ((2, 3, 60, 90), (3, 3, 50, 70)):
            image = torch.randn(shape)
            torch.testing.assert_close(compiled(image), model(image), atol=1e-5, rtol=1e-5)


def test_compiling_a_training_step() -> None:
    model = build(**SHALLOW).double()  # in float32 a rounded cell of a mask lets a token see other cells
    with torch.no_grad():  # at whole cells, where sampling starts, bilinear interpolation has two gradients
        model.decoder.pixel_decoder.layers[0].attention.sampling_offsets.bias.add_(0.3)
    image = torch.randn(2, 3, 60, 90, dtype=torch.float64)
    torch.compiler.reset()
    gradients = []
    for forward in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        forward(image).sigmoid().square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    eager, compiled = gradients
    assert eager.keys() == compiled.keys()
    for name, gradient in eager.items():
        torch.testing.assert_close(compiled[name], gradient, atol=1e-7, rtol=1e-4)  # scores are float32


@pytest.mark.parametrize(
    "options", [{}, {"pixel_decoder": "fpn", "encoder_depth": 3, "aux_params": {"classes": 5}, "classes": 1}]
)
def test_exporting_with_dynamic_sizes(options: dict[str, Any]) -> None:
    assert mta.MTACLIP._is_torch_exportable
    model = build(**SHALLOW | options | {"class_names": None if "classes" in options else NAMES}).eval()
    image = torch.randn(2, 3, 64, 96)
    exported = torch.export.export(model, (image,), dynamic_shapes=(MULTIPLES_OF_32,), strict=True).module()
    for shape in ((2, 3, 64, 96), (1, 3, 160, 64), (3, 3, 64, 128)):
        image = torch.randn(shape)
        with torch.inference_mode():
            torch.testing.assert_close(exported(image), model(image), atol=1e-5, rtol=1e-5)


def test_onnx_with_the_text_baked_in(tmp_path: Path, onnxruntime: ModuleType) -> None:
    model = build(**SHALLOW).eval()
    image = torch.randn(2, 3, 64, 96)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (image,), path, dynamo=True, dynamic_shapes=(MULTIPLES_OF_32,), external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((2, 3, 64, 96), (1, 3, 160, 64), (3, 3, 64, 128)):
        image = torch.randn(shape)
        (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(logits, model(image).numpy(), atol=1e-3, rtol=1e-3)


TORCHSCRIPT: dict[str, Callable[[torch.nn.Module], object]] = {
    "script": torch.jit.script,
    "trace": lambda model: torch.jit.trace(model, torch.zeros(1, 3, 64, 64)),
    "onnx": lambda model: torch.onnx.export(model, (torch.zeros(1, 3, 64, 64),), io.BytesIO(), dynamo=False),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("pixel_decoder", ["deformable", "fpn"])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("way", TORCHSCRIPT)
def test_torchscript_is_refused_in_one_sentence(way: str, held: bool, pixel_decoder: str) -> None:
    assert not mta.MTACLIP._is_torch_scriptable
    model = build(pixel_decoder=pixel_decoder, **SHALLOW).eval()
    with (
        pytest.raises(RuntimeError, match=r"^this model can be .*torch\.export\.export.*dynamo=True\)$"),
        torch.no_grad(),
    ):
        TORCHSCRIPT[way](torch.nn.Sequential(model) if held else model)


@pytest.mark.parametrize("handle_buffers", ["copy", "update", "ema_train"])
def test_the_average_of_ignite_evaluates_with_its_own_text(handle_buffers: str) -> None:
    model = build().eval()
    assert model.text_embeddings.any()
    averaging = EMAHandler(model, momentum=0.5, handle_buffers=handle_buffers)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def step(engine: Engine, image: torch.Tensor) -> None:
        optimizer.zero_grad()
        model(image, return_masks=True).text_logits.square().mean().backward()
        optimizer.step()

    trainer = Engine(step)
    averaging.attach(trainer)
    trainer.run([torch.randn(2, 3, 32, 32)] * 2)
    average = averaging.ema_model.eval()
    model.eval()
    torch.testing.assert_close(average.text_embeddings, average.prompts())
    torch.testing.assert_close(model.text_embeddings, model.prompts())
    assert not torch.allclose(average.text_embeddings, model.text_embeddings)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_dtype(dtype: torch.dtype) -> None:
    model = build().eval()
    text = model.text_embeddings
    model = model.to(dtype)
    assert torch.equal(model.text_embeddings, text.to(dtype))
    assert model(torch.randn(1, 3, 50, 70, dtype=dtype)).isfinite().all()


def test_the_state_has_neither_text_nor_tower() -> None:
    model = build().eval()
    names = model.state_dict().keys()
    assert {name.split(".")[0] for name in names} == {"encoder", "decoder", "prompts"}
    assert [name for name in names if name.startswith("prompts")] == ["prompts.contexts"]
    assert not any(parameter.requires_grad for parameter in model.prompts.tower.model.parameters())
