"""One training step beside its peers: ``python -m benchmarks.step [--quick] [--sides 512] [--rounds 7]``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from benchmarks import peers
from benchmarks.measure import (
    MEBIBYTE,
    PairedSeconds,
    copy_rate,
    count_flops,
    matrix_rate,
    peak_bytes,
    time_in_turn,
)
from benchmarks.parts import Part, measure_parts
from benchmarks.peers import Contender, Scene
from benchmarks.report import Section, benchmark_parser, report_folder, write_report
from mtaclip_plugin import MTACLIPLoss, vocabulary
from mtaclip_plugin.text import PromptLearner, TextTower

OURS, MASK2FORMER, OFFICIAL, ENCODER = "mtaclip", "Mask2Former", "official flow", "encoder alone"
NO_TEXT, TOWER = "mtaclip, no text", "mtaclip, RN50's tower"
TEXT_TOWER, SHORT_LENGTH, PADDED_LENGTH = "RN50", 13, 77


@dataclass(frozen=True)
class Count:
    """What a training step of one contender takes.

    Attributes:
        flops: floating-point operations, forward and backward.
        peak: bytes of tensors alive at most, parameters included.
    """

    flops: int
    peak: int


def contenders(names: Sequence[str]) -> dict[str, Callable[[Scene], Contender]]:
    """How to build those of the names that can be built here; says which can not."""
    builders: dict[str, Callable[[Scene], Contender]] = {
        ENCODER: peers.bare_encoder,
        OURS: peers.mtaclip,
        NO_TEXT: partial(peers.mtaclip, text_encoder=None),
        TOWER: partial(peers.mtaclip, text_encoder=TEXT_TOWER),
        MASK2FORMER: peers.mask2former,
        OFFICIAL: peers.official,
    }
    if not peers.has_transformers():
        print("transformers is not installed, so Mask2Former is left out: pip install transformers")
        del builders[MASK2FORMER]
    return {name: builders[name] for name in names if name in builders}


def count(build: Callable[[Scene], Contender], scene: Scene) -> Count:
    """Counts a step of a contender, built anew."""
    contender = build(scene)
    prompts = getattr(contender.model, "prompts", None)
    tower = [prompts.tower.model] if isinstance(prompts, PromptLearner) else []
    return Count(count_flops(contender.step), peak_bytes(contender.step, contender.model, *tower))


def count_text(num_classes: int) -> dict[str, int]:
    """Operations of the forward pass of all prompts: our way, each prompt cut after its end, and padded."""
    names = vocabulary("ade20k")[:num_classes]
    tower = TextTower(TEXT_TOWER, None)
    learner = PromptLearner(tower, names, num_prompts=peers.NUM_PROMPTS)
    sequences = peers.NUM_PROMPTS * (num_classes + 1)
    shortened, padded = (sequences * sequence_flops(tower, length) for length in (SHORT_LENGTH, PADDED_LENGTH))
    return {"shared prefix": count_flops(learner), "shortened": shortened, "padded": padded}


def sequence_flops(tower: TextTower, length: int) -> int:
    """Operations of a forward pass of one sequence, by the sizes of the tower's layers.

    Each token goes through matrices of 12 width² numbers a layer, in attention and perceptron together, and meets each
    token twice: its key and its value.
    """
    return len(tower.text.transformer.resblocks) * length * (24 * tower.width**2 + 4 * length * tower.width)


def time_steps(names: Sequence[str], scene: Scene, *, rounds: int) -> PairedSeconds:
    """Times steps of the contenders in turn, ours in bfloat16 autocast too."""
    built = {name: build(scene) for name, build in contenders(names).items()}
    steps: dict[str, Callable[[], None]] = {name: contender.step for name, contender in built.items()}
    steps[f"{OURS}, bf16"] = partial(built[OURS].step, bf16=True)
    return time_in_turn(steps, rounds, title=f"steps at {scene.images.shape[-1]}")


def count_section(side: int, counts: Mapping[str, Count]) -> Section:
    """The table of counts at one size."""
    encoder, rows = counts[ENCODER].peak, []
    for name, counted in counts.items():
        above = counted.peak - encoder
        ratios = [
            "" if peer not in counts or name in (peer, ENCODER) else f"{above / (counts[peer].peak - encoder):.2f}"
            for peer in (MASK2FORMER, OFFICIAL)
        ]
        memory = f"{counted.peak / MEBIBYTE:.0f}", "" if name == ENCODER else f"{above / MEBIBYTE:.0f}"
        rows.append((name, f"{counted.flops / 1e9:.0f}", *memory, *ratios))
    columns = ("step", "GFLOP", "peak MiB", "above the encoder", f"of {MASK2FORMER}'s", f"of the {OFFICIAL}'s")
    return Section(f"Counted at {side}x{side}", columns, rows)


def time_section(side: int, seconds: PairedSeconds) -> Section:
    """The table of seconds at one size."""
    names = list(seconds.rounds[0])
    peers_here = [peer for peer in (MASK2FORMER, OFFICIAL, OURS) if peer in names]
    rows = [
        (name, f"{seconds.median(name):.2f}", *(f"{seconds.ratio(name, peer):.2f}" for peer in peers_here))
        for name in names
    ]
    note = f"Medians of {len(seconds.rounds)} rounds, in each of which all steps are made in turn."
    return Section(f"Timed at {side}x{side}", ("step", "seconds", *(f"to {peer}" for peer in peers_here)), rows, note)


def part_section(parts: Sequence[Part], flops_rate: float, bytes_rate: float) -> Section:
    """The table of parts, with the least time that this machine can take for each."""
    rows = []
    for part in [*parts, _sum(parts)]:
        compute, transfer = part.flops / flops_rate, part.moved / bytes_rate
        floor = f"{compute:.2f}", f"{transfer:.2f}", f"{part.seconds / compute:.1f}" if compute > 0.01 else ""
        rows.append((part.name, f"{part.flops / 1e9:.1f}", f"{part.moved / 1e9:.1f}", *floor, f"{part.seconds:.2f}"))
    note = (
        f"Forward and backward, float32. This machine multiplies matrices at {flops_rate / 1e9:.0f} GFLOP/s and copies "
        f"{bytes_rate / 1e9:.0f} GB/s, both measured in this run: the floors are operations over the one and bytes "
        "over the other; bytes are counted as if there were no caches."
    )
    columns = ("part", "GFLOP", "GB moved", "floor of FLOPs, s", "floor of bytes, s", "times the first", "seconds")
    return Section("By part", columns, rows, note)


def text_section(text: Mapping[str, int]) -> Section:
    """The table of the text tower's operations."""
    rows = [(way, f"{flops / 1e9:.0f}", f"{flops / text['shortened']:.2f}") for way, flops in text.items()]
    note = f"The {TEXT_TOWER} tower, forward, {peers.NUM_PROMPTS} prompts of 8 learned tokens; shortened to "
    return Section(
        "Text",
        ("prompts", "GFLOP", "of the shortened form's"),
        rows,
        f"{note}{SHORT_LENGTH} of {PADDED_LENGTH} tokens.",
    )


def draw(figure: Any, counts: Mapping[int, Mapping[str, Count]], seconds: PairedSeconds | None) -> None:
    """Bars of memory above the encoder, for each size, and of seconds."""
    axes = figure.subplots(1, len(counts) + (seconds is not None), squeeze=False)[0]
    for axis, (side, by_name) in zip(axes, counts.items(), strict=False):
        names = [name for name in by_name if name != ENCODER]
        axis.barh(names, [(by_name[name].peak - by_name[ENCODER].peak) / MEBIBYTE for name in names])
        axis.set(title=f"{side}x{side}", xlabel="peak above the encoder, MiB")
    if seconds is not None:
        names = list(seconds.rounds[0])
        axes[-1].barh(names, [seconds.median(name) for name in names])
        axes[-1].set(title="one step", xlabel="seconds")
    for axis in axes:
        axis.invert_yaxis()
    figure.set_size_inches(5 * len(axes), 3)


def _sum(parts: Sequence[Part]) -> Part:
    columns = zip(*((part.flops, part.moved, part.seconds) for part in parts), strict=True)
    flops, moved, seconds = (sum(column) for column in columns)
    return Part("all", int(flops), int(moved), seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line), measures and writes the report."""
    parser = benchmark_parser("step", "One training step of MTA-CLIP beside its peers.")
    parser.add_argument("--sides", type=int, nargs="+", default=[512], help="Sizes to count; the first is timed.")
    options = parser.parse_args(arguments)
    sides, rounds, classes, batch = options.sides, options.rounds, 150, 2
    if options.quick:
        sides, rounds, classes = [64], min(rounds, 1), 20
    scenes = {side: Scene.random(batch=batch, side=side, num_classes=classes) for side in sides}

    text = count_text(classes)
    names = [ENCODER, OURS, NO_TEXT, TOWER, MASK2FORMER, OFFICIAL]
    counts: dict[int, dict[str, Count]] = {}
    for side, scene in scenes.items():
        counts[side] = {}
        for name, build in contenders(names).items():
            print(f"counting {name} at {side}x{side}", file=sys.stderr)
            counts[side][name] = count(build, scene)

    sections = [count_section(side, by_name) for side, by_name in counts.items()] + [text_section(text)]
    seconds, parts = None, []
    if rounds > 0:
        seconds = time_steps([OURS, NO_TEXT, MASK2FORMER, OFFICIAL], scenes[sides[0]], rounds=rounds)
        parts = measure_parts(peers.build_mtaclip(classes).train(), MTACLIPLoss(), scenes[sides[0]], rounds=rounds)
        sections.insert(0, time_section(sides[0], seconds))
        sections.append(part_section(parts, matrix_rate(torch.float32), copy_rate()))
    write_report(
        "step" if rounds > 0 else "step_counts",
        title="One training step",
        command=f"python -m benchmarks.step {' '.join(sys.argv[1:] if arguments is None else arguments)}".strip(),
        sections=sections,
        numbers={
            "counts": {side: {name: asdict(c) for name, c in by_name.items()} for side, by_name in counts.items()},
            "seconds": [] if seconds is None else list(seconds.rounds),
            "parts": [asdict(part) for part in parts],
            "text": text,
        },
        draw=lambda figure: draw(figure, counts, seconds),
        folder=report_folder(options),
    )


if __name__ == "__main__":
    main()
