"""One image to its label map beside Mask2Former: ``python -m benchmarks.inference [--quick] [--sides 512 1024]``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import peers, runtimes
from benchmarks.measure import MEBIBYTE, PairedSeconds, count_flops, peak_bytes, time_in_turn
from benchmarks.peers import Scene
from benchmarks.report import Section, benchmark_parser, report_folder, write_report
from benchmarks.runtimes import EAGER, LabelMap, LeftOut, Way
from mtaclip_plugin import semantic_labels
from mtaclip_plugin.encoders import encode

OURS, LOGITS, MASK2FORMER = "mtaclip", "mtaclip, by its logits", "Mask2Former"
TEXT_TOWER = "RN50"


@dataclass(frozen=True)
class Count:
    """What an image takes.

    Attributes:
        flops: floating-point operations.
        peak: bytes of tensors alive at most, parameters included.
    """

    flops: int
    peak: int


def build(num_classes: int, *, encoder_name: str) -> dict[str, LabelMap]:
    """The models that can be built here; says so of one that can not."""
    ours = peers.build_mtaclip(num_classes, encoder_name=encoder_name)
    built = {OURS: runtimes.mtaclip(ours), LOGITS: runtimes.mtaclip_logits(ours)}
    if peers.has_transformers():
        built[MASK2FORMER] = runtimes.mask2former(peers.build_mask2former(num_classes))
    else:
        print("transformers is not installed, so Mask2Former is left out: pip install transformers")
    return {name: module.eval() for name, module in built.items()}


@torch.inference_mode()
def count_all(modules: Mapping[str, LabelMap], images: Tensor) -> dict[str, Count]:
    """Counts one image of each model."""
    counts = {}
    for name, module in modules.items():
        print(f"counting {name} at {images.shape[-1]}", file=sys.stderr)
        run = partial(module, images)
        counts[name] = Count(count_flops(run), peak_bytes(run, module))
    return counts


def count_text(num_classes: int, images: Tensor, *, encoder_name: str) -> dict[str, int]:
    """Operations of the first image with a text tower, of the second one, and of one with ready embeddings."""
    tower = peers.build_mtaclip(num_classes, text_encoder=TEXT_TOWER, encoder_name=encoder_name)
    bank = peers.build_mtaclip(num_classes, encoder_name=encoder_name)
    tower.requires_grad_(False)  # what follows modules while it counts would look for a graph of the contexts
    return {
        "first image, text tower": count_flops(lambda: tower.eval().predict_labels(images)),
        "second image, text tower": count_flops(lambda: tower.eval().predict_labels(images)),
        "any image, ready embeddings": count_flops(lambda: bank.eval().predict_labels(images)),
    }


@torch.inference_mode()
def other_ways(modules: Mapping[str, LabelMap], images: Tensor, *, quick: bool) -> tuple[list[Way], list[str]]:
    """Models compiled and in onnxruntime, and a sentence for each that is left out."""
    ways, left_out = [], []
    prepare = {runtimes.COMPILED: runtimes.compiled, runtimes.ONNX: runtimes.in_onnxruntime}
    if quick:
        del prepare[runtimes.COMPILED]
        left_out.append("Nothing is compiled with --quick: that takes minutes.")
    for runtime, function in prepare.items():
        for name in (name for name in (OURS, MASK2FORMER) if name in modules):
            print(f"preparing {name} for {runtime}", file=sys.stderr)
            try:
                ways.append(function(name, modules[name], images))
            except LeftOut as reason:
                print(reason)
                left_out.append(str(reason))
    return ways, left_out


@torch.inference_mode()
def time_ways(ways: Sequence[Way], images: Tensor, *, rounds: int) -> PairedSeconds:
    """Times one image of all of them in turn."""
    functions = {way.name: partial(way.run, images) for way in ways}
    return time_in_turn(functions, rounds, title=f"images of {images.shape[-1]}")


@torch.inference_mode()
def time_parts(modules: Mapping[str, LabelMap], images: Tensor, *, rounds: int) -> PairedSeconds:
    """Times the parts of ours, and network and post-processing of the peer, in turn."""
    ours: Any = modules[OURS].network
    decoder, text = ours.decoder, ours.text_embeddings
    features = encode(ours.encoder, images)
    pixel_features = decoder.pixel_decoder(decoder.pyramid(features))
    prediction = ours(images, return_masks=True)
    parts: dict[str, Callable[[], object]] = {
        f"{OURS}: encoder": lambda: encode(ours.encoder, images),
        f"{OURS}: pixel decoder": lambda: decoder.pixel_decoder(decoder.pyramid(features)),
        f"{OURS}: mask-text decoder": lambda: decoder.mask_text_decoder(pixel_features, text, auxiliary=False),
        f"{OURS}: label map": lambda: semantic_labels(prediction),
    }
    if MASK2FORMER in modules:
        peer = modules[MASK2FORMER]
        outputs = peer.graph(peer.network, images)
        parts[f"{MASK2FORMER}: network"] = lambda: peer.graph(peer.network, images)
        parts[f"{MASK2FORMER}: label map"] = lambda: peer.after(outputs, images.shape[-2:])
    return time_in_turn(parts, rounds, title=f"parts at {images.shape[-1]}")


def count_section(side: int, counts: Mapping[str, Count]) -> Section:
    """The table of counts at one size."""
    peer, rows = counts.get(MASK2FORMER), []
    for name, counted in counts.items():
        ratio = "" if peer is None or name == MASK2FORMER else f"{counted.peak / peer.peak:.2f}"
        rows.append((name, f"{counted.flops / 1e9:.0f}", f"{counted.peak / MEBIBYTE:.0f}", ratio))
    columns = ("image to label map", "GFLOP", "peak MiB", f"of {MASK2FORMER}'s")
    return Section(f"Counted at {side}x{side}", columns, rows)


def time_section(side: int, ways: Sequence[Way], seconds: PairedSeconds, left_out: Sequence[str]) -> Section:
    """The table of seconds at one size, each beside the peer run eagerly and in the same runtime."""
    timed, rows = {way.name for way in ways}, []
    for way in ways:
        ratios = [
            f"{seconds.ratio(way.name, peer):.2f}" if peer in timed and peer != way.name else ""
            for peer in (f"{MASK2FORMER}, {EAGER}", f"{MASK2FORMER}, {way.runtime}")
        ]
        milliseconds = f"{1000 * seconds.median(way.name):.0f}"
        rows.append((way.model, way.runtime, milliseconds, *ratios, f"{100 * way.agreement:.2f}"))
    columns = ("image to label map", "run", "ms", f"to {MASK2FORMER}, eager", "to it, run so too", "same labels, %")
    note = (
        f"Medians of {len(seconds.rounds)} rounds, in each of which all are run in turn. {MASK2FORMER}'s own "
        "post-processing makes scores at 384x384 and resizes those; ours are of masks at the image's size. Same "
        "labels: as the same model's, run eagerly; weights are random, so rounding decides where classes are close."
    )
    return Section(f"Timed at {side}x{side}", columns, rows, "\n\n".join([note, *left_out]))


def part_section(side: int, seconds: PairedSeconds) -> Section:
    """The table of parts, each as a share of its model."""
    medians = {name: seconds.median(name) for name in seconds.rounds[0]}
    rows = []
    for name, median in medians.items():
        whole = sum(other for part, other in medians.items() if part.split(":")[0] == name.split(":")[0])
        rows.append((name, f"{1000 * median:.0f}", f"{100 * median / whole:.0f}"))
    return Section(f"By part at {side}x{side}, run eagerly", ("part", "ms", "% of the model"), rows)


def text_section(text: Mapping[str, int]) -> Section:
    """The table of the text tower's operations."""
    rows = [(call, f"{flops / 1e9:.2f}") for call, flops in text.items()]
    note = f"`model.eval().predict_labels(image)`, {TEXT_TOWER}'s tower, {peers.NUM_PROMPTS} prompts a class."
    return Section("Text", ("call", "GFLOP"), rows, note)


def draw(figure: Any, side: int, counts: Mapping[str, Count], seconds: PairedSeconds | None) -> None:
    """Bars of memory and of milliseconds at one size."""
    axes = figure.subplots(1, 1 + (seconds is not None), squeeze=False)[0]
    axes[0].barh(list(counts), [counted.peak / MEBIBYTE for counted in counts.values()])
    axes[0].set(title=f"{side}x{side}", xlabel="peak, MiB")
    if seconds is not None:
        names = list(seconds.rounds[0])
        axes[1].barh(names, [1000 * seconds.median(name) for name in names])
        axes[1].set(title="image to label map", xlabel="ms")
    for axis in axes:
        axis.invert_yaxis()
    figure.set_size_inches(6 * len(axes), 3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line), measures and writes the report."""
    parser = benchmark_parser("inference", "One image to its label map, MTA-CLIP beside Mask2Former.")
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[512, 1024], help="Sizes; other runtimes are measured at the first."
    )
    options = parser.parse_args(arguments)
    sides, rounds, classes, encoder_name = options.sides, options.rounds, 150, "resnet50"
    if options.quick:
        sides, rounds, classes, encoder_name = [64], min(rounds, 1), 20, "resnet18"
    images = {side: Scene.random(batch=1, side=side, num_classes=classes).images for side in sides}

    text = count_text(classes, images[sides[0]], encoder_name=encoder_name)
    modules = build(classes, encoder_name=encoder_name)
    counts = {side: count_all(modules, images[side]) for side in sides}
    sections = [count_section(side, by_name) for side, by_name in counts.items()] + [text_section(text)]
    seconds: dict[int, PairedSeconds] = {}
    others: list[Way] = []
    parts = None
    if rounds > 0:
        others, left_out = other_ways(modules, images[sides[0]], quick=options.quick)
        parts = time_parts(modules, images[sides[0]], rounds=rounds)
        timed = []
        for side in sides:
            ways = [runtimes.eager(name, module) for name, module in modules.items()]
            ways += others if side == sides[0] else []
            seconds[side] = time_ways(ways, images[side], rounds=rounds)
            timed.append(time_section(side, ways, seconds[side], left_out if side == sides[0] else []))
        sections = [*timed, part_section(sides[0], parts), *sections]
    write_report(
        "inference",
        title="One image to its label map",
        command=f"python -m benchmarks.inference {' '.join(sys.argv[1:] if arguments is None else arguments)}".strip(),
        sections=sections,
        numbers={
            "counts": {side: {name: asdict(c) for name, c in by_name.items()} for side, by_name in counts.items()},
            "seconds": {side: list(measured.rounds) for side, measured in seconds.items()},
            "agreement": {way.name: way.agreement for way in others},
            "parts": [] if parts is None else list(parts.rounds),
            "text": text,
        },
        draw=lambda figure: draw(figure, sides[0], counts[sides[0]], seconds.get(sides[0])),
        folder=report_folder(options),
    )


if __name__ == "__main__":
    main()
