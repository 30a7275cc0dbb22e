"""A model and its way to a label map: run eagerly, compiled, and in onnxruntime."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.report import error_sentence
from mtaclip_plugin import semantic_labels

EAGER, COMPILED, ONNX = "eager", "torch.compile", "onnxruntime"

Run = Callable[[Tensor], Tensor]
"""From normalised images (1, 3, H, W) to class ids (1, H, W)."""


class LeftOut(Exception):  # noqa: N818, it is no error of the program
    """A sentence that says why something is not measured."""


class LabelMap(nn.Module):
    """A network with all that follows it, and how that is split for ONNX.

    Args:
        network: any module.
        labels: what is run: from the network and images (1, 3, H, W) to class ids (1, H, W).
        graph: what is exported: from the network and images to tensors.
        after: from those tensors and the size (H, W) to class ids (1, H, W).
    """

    def __init__(
        self,
        network: nn.Module,
        labels: Callable[[Any, Tensor], Tensor],
        graph: Callable[[Any, Tensor], tuple[Tensor, ...]],
        after: Callable[[Sequence[Tensor], Sequence[int]], Tensor],
    ) -> None:
        super().__init__()
        self.network = network
        self.labels = labels
        self.graph = graph
        self.after = after

    def forward(self, images: Tensor) -> Tensor:
        """(1, 3, H, W) to (1, H, W)."""
        return self.labels(self.network, images)


class _Graph(nn.Module):
    """What of a ``LabelMap`` is exported."""

    def __init__(self, module: LabelMap) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.module.graph(self.module.network, images)


@dataclass(frozen=True)
class Way:
    """A model in a runtime.

    Attributes:
        model: its name.
        runtime: what runs it.
        run: runs it.
        agreement: share of pixels with the class that the same model gives eagerly.
    """

    model: str
    runtime: str
    run: Run
    agreement: float

    @property
    def name(self) -> str:
        """Of both."""
        return f"{self.model}, {self.runtime}"


def mtaclip(network: nn.Module) -> LabelMap:
    """This project's model, all of it one graph."""

    def graph(model: Any, images: Tensor) -> tuple[Tensor, ...]:
        return (semantic_labels(model(images, return_masks=True)),)

    return LabelMap(network, lambda model, images: model.predict_labels(images), graph, lambda outputs, _: outputs[0])


def mtaclip_logits(network: nn.Module) -> LabelMap:
    """This project's model as any other one of smp."""

    def graph(model: Any, images: Tensor) -> tuple[Tensor, ...]:
        return (model(images),)

    return LabelMap(
        network, lambda model, images: model(images).argmax(1), graph, lambda outputs, _: outputs[0].argmax(1)
    )


def mask2former(network: nn.Module) -> LabelMap:
    """Transformers' Mask2Former with its own post-processing, which is no part of the graph."""
    from transformers import Mask2FormerImageProcessor

    processor = Mask2FormerImageProcessor()

    def process(outputs: Any, size: Sequence[int]) -> Tensor:
        (labels,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(size[0], size[1])])
        return torch.as_tensor(labels)[None]

    def after(outputs: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        named = SimpleNamespace(class_queries_logits=outputs[0], masks_queries_logits=outputs[1])
        return process(named, size)

    def graph(model: Any, images: Tensor) -> tuple[Tensor, ...]:
        outputs = model(pixel_values=images)
        return outputs.class_queries_logits, outputs.masks_queries_logits

    def labels(model: Any, images: Tensor) -> Tensor:
        return process(model(pixel_values=images), images.shape[-2:])

    return LabelMap(network, labels, graph, after)


def eager(name: str, module: LabelMap) -> Way:
    """The model as it is."""
    return Way(name, EAGER, module, 1.0)


def compiled(name: str, module: LabelMap, images: Tensor) -> Way:
    """The model compiled for images of this size.

    Raises:
        LeftOut: If it does not compile here, for instance without a C++ compiler.
    """
    run: Run = torch.compile(module)
    try:
        return Way(name, COMPILED, run, _agreement(run, module, images))
    except Exception as error:
        raise LeftOut(f"{name} does not compile here: {error_sentence(error)}") from error


def in_onnxruntime(name: str, module: LabelMap, images: Tensor) -> Way:
    """The model exported for images of this size, on as many threads as torch has.

    Raises:
        LeftOut: If a package is not installed, or the model can not be exported.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise LeftOut(f"{package} is not installed, so {name} is not run in {ONNX}: pip install {package}")
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it warns of each operator that it leaves as it is
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            torch.onnx.export(_Graph(module).eval(), (images,), path, dynamo=True, external_data=False, verbose=False)
            run = _session(path, module)
        return Way(name, ONNX, run, _agreement(run, module, images))
    except Exception as error:
        raise LeftOut(f"{name} does not run in {ONNX}: {error_sentence(error)}") from error


def _session(path: Path, module: LabelMap) -> Run:
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin while they wait would slow down what is timed in turn with them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        outputs = session.run(None, {name: images.numpy()})
        return module.after([torch.from_numpy(output) for output in outputs], images.shape[-2:])

    return run


def _agreement(run: Run, module: LabelMap, images: Tensor) -> float:
    return (run(images) == module(images)).double().mean().item()
