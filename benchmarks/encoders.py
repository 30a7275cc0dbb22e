"""Measures encoders of every make: ``python -m benchmarks.encoders [--quick] [--output FILE]``."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from segmentation_models_pytorch.encoders import TimmViTEncoder
from torch import nn
from tqdm import tqdm

from benchmarks.encoder_list import ENCODERS, REFUSED
from benchmarks.markdown import table, versions
from benchmarks.measure import count_flops
from mtaclip_plugin import MTACLIP, preprocessing
from mtaclip_plugin.encoders import STRIDES, EncoderMaps, encode, find_maps
from mtaclip_plugin.encoders.clip import ClipEncoder
from mtaclip_plugin.encoders.plain_vit import PlainViT

OUTPUT = Path("docs/encoders.md")
SIDE = 512
"""Of the images whose operations are counted, in pixels."""

_MEANS: dict[tuple[float, ...], str] = {
    (0.485, 0.456, 0.406): "ImageNet's",
    (0.481, 0.458, 0.408): "CLIP's",
    (0.5, 0.5, 0.5): "0.5",
}
_COLUMNS = ("encoder", "kind", "parameters (M)", "maps", "made", "sides", f"GFLOP at {SIDE}x{SIDE}", "mean and std")
_EXPLANATION = """
Encoders that `encoder_name=` takes, the smallest of each family; a family's larger ones have maps at the same strides.

- **kind**: smp's own; timm's with stages; a plain vision transformer, whose pyramid is made of its last map; the
  encoder of smp's `DPT`; an image tower of open_clip (`encoder_name="clip"` is that of the model `text_encoder` names).
- **parameters**: of the encoder alone, in millions.
- **maps**: stride: channels, of the encoder's maps that the decoder takes.
- **made**: strides that are made from those.
- **sides**: images are padded on the right and at the bottom to multiples of this, in pixels, and the logits cut back.
- **GFLOP**: of the encoder alone, for one image so padded; a multiplication and an addition are two.
- **mean and std**: who knows what images are normalised with, and whose it is; `mtaclip_plugin.preprocessing(model)`
  gives the values. For its own encoders smp looks up those of the weights that `encoder_weights=` names.
"""
_REFUSAL = """
## Refused

Encoders without maps at strides from 4 on, or for images of one size, are refused when a model is built:
"""


@dataclass(frozen=True)
class Measurement:
    """What was seen of an encoder.

    Attributes:
        name: as ``encoder_name`` takes it.
        kind: what it is.
        parameters: how many it has.
        maps: the maps it has, and the sizes it takes.
        flops: floating-point operations for one image of ``SIDE``, padded to such a size.
        statistics: who knows the mean and standard deviation of its images, and whose they are.
    """

    name: str
    kind: str
    parameters: int
    maps: EncoderMaps
    flops: int
    statistics: str

    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        pairs = zip(self.maps.strides, self.maps.channels, strict=True)
        return (
            f"`{self.name}`",
            self.kind,
            f"{self.parameters / 1e6:.1f}",
            ", ".join(f"{stride}: {channels}" for stride, channels in pairs),
            ", ".join(str(stride) for stride in STRIDES if stride not in self.maps.strides) or "none",
            str(self.maps.size_multiple),
            f"{self.flops / 1e9:.1f}",
            self.statistics,
        )


def build_model(name: str, **options: Any) -> MTACLIP:
    """A model on an encoder with random weights, whose decoder takes no time to build."""
    decoder: dict[str, Any] = {"pixel_decoder": "fpn", "decoder_layers": 1, "decoder_channels": 64, "num_queries": 1}
    return MTACLIP(name, encoder_weights=None, text_encoder=None, **decoder, **options)


def measure(name: str, **options: Any) -> Measurement:
    """Builds an encoder as a model does, and measures it.

    Args:
        name: as ``encoder_name`` takes it.
        **options: passed to timm.
    """
    model = build_model(name, **options).eval()
    maps = find_maps(model.encoder, 3)
    kind, source = _kind(name, model.encoder)
    mean = tuple(round(value, 3) for value in preprocessing(model).mean)
    return Measurement(
        name=name,
        kind=kind,
        parameters=sum(parameter.numel() for parameter in model.encoder.parameters()),
        maps=maps,
        flops=_flops(model.encoder, SIDE + -SIDE % maps.size_multiple),
        statistics="smp: the weights'" if source == "smp" else f"{source}: {_MEANS.get(mean, mean)}",
    )


def refusal(name: str) -> str:
    """The sentence that an encoder is refused with.

    Raises:
        RuntimeError: it is not.
    """
    try:
        build_model(name)
    except ValueError as error:
        return str(error)
    raise RuntimeError(f"'{name}' is not refused; move it from REFUSED to ENCODERS in benchmarks/encoder_list.py")


def report(measurements: Sequence[Measurement], refusals: dict[str, str], *, quick: bool) -> str:
    """All of it as Markdown."""
    command = f"python -m benchmarks.encoders{' --quick' if quick else ''}"
    narrowed = "; timm's models narrowed where they take a width: not the numbers of those names" if quick else ""
    parts = [
        "# Encoders",
        f"Written by `{command}` with {versions()}; random weights{narrowed}.",
        _EXPLANATION.strip(),
        table(_COLUMNS, [measurement.cells() for measurement in measurements]),
        _REFUSAL.strip(),
        table(("encoder", "sentence"), [(f"`{name}`", sentence) for name, sentence in refusals.items()]),
    ]
    return "\n\n".join(parts) + "\n"


@torch.no_grad()
def _flops(encoder: nn.Module, side: int) -> int:
    """Operations for one image (1, 3, side, side); leaves the encoder on the device "meta", where nothing is run."""
    encoder, image = encoder.to("meta"), torch.empty(1, 3, side, side, device="meta")
    return count_flops(lambda: encode(encoder, image))


def _kind(name: str, encoder: nn.Module) -> tuple[str, str]:
    """What an encoder is, and who knows the statistics of its images."""
    if isinstance(encoder, ClipEncoder):
        return "CLIP", "open_clip"
    if isinstance(encoder, TimmViTEncoder):
        return "DPT", "timm"
    if isinstance(encoder, PlainViT):
        return "plain ViT", "timm"
    return ("timm", "timm") if name.startswith("tu-") else ("smp", "smp")


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line) and writes the table."""
    parser = ArgumentParser(prog="python -m benchmarks.encoders", description="Writes a table of encoders as Markdown.")
    parser.add_argument("--quick", action="store_true", help="Narrow timm's models where they take a width.")
    parser.add_argument("--output", type=Path, help=f"The file to write; {OUTPUT}, but with --quick the terminal.")
    options = parser.parse_args(arguments)
    refusals = {name: refusal(name) for name in tqdm(REFUSED, desc="refused")}
    measurements = [
        measure(name, **(narrow if options.quick else {})) for name, narrow in tqdm(ENCODERS.items(), desc="encoders")
    ]
    text = report(measurements, refusals, quick=options.quick)
    if options.quick and options.output is None:
        print(text)
    else:
        (options.output or OUTPUT).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
