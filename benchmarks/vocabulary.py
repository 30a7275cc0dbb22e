"""How a training step grows with the number of classes: ``python -m benchmarks.vocabulary [--quick]``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import peers
from benchmarks.measure import MEBIBYTE, PairedSeconds, count_flops, peak_bytes, time_in_turn
from benchmarks.peers import Scene
from benchmarks.report import Section, benchmark_parser, report_folder, write_report

CLASSES = (20, 150, 847, 2000)
"""Numbers of classes: of Pascal VOC, of ADE20K, of all of ADE20K, and more than any."""


@dataclass(frozen=True)
class Growth:
    """What a training step takes with a number of classes.

    Attributes:
        flops: floating-point operations, forward and backward.
        peak: bytes of tensors alive at most, parameters included.
        above: those of them above the encoder's own step.
    """

    flops: int
    peak: int
    above: int


def measure_growth(num_classes: int, *, side: int) -> Growth:
    """Counts a step with so many classes."""
    scene = Scene.random(batch=2, side=side, num_classes=num_classes)
    encoder, contender = peers.bare_encoder(scene), peers.mtaclip(scene)
    peak = peak_bytes(contender.step, contender.model)
    return Growth(count_flops(contender.step), peak, peak - peak_bytes(encoder.step, encoder.model))


def time_growth(classes: Sequence[int], *, side: int, rounds: int) -> PairedSeconds:
    """Times steps with these numbers of classes in turn."""
    built = {k: peers.mtaclip(Scene.random(batch=2, side=side, num_classes=k)) for k in classes}
    return time_in_turn({str(k): contender.step for k, contender in built.items()}, rounds, title="steps")


def growth_section(growth: Mapping[int, Growth], seconds: PairedSeconds | None, side: int) -> Section:
    """The table, with each number of classes as a multiple of the one before."""
    rows, before = [], None
    for classes, grown in growth.items():
        factor = (
            ("", "") if before is None else (f"{classes / before:.2f}", f"{grown.above / growth[before].above:.2f}")
        )
        time = (
            ("", "")
            if seconds is None
            else (
                f"{seconds.median(str(classes)):.2f}",
                "" if before is None else f"{seconds.ratio(str(classes), str(before)):.2f}",
            )
        )
        memory = f"{grown.peak / MEBIBYTE:.0f}", f"{grown.above / MEBIBYTE:.0f}"
        rows.append((str(classes), f"{grown.flops / 1e9:.0f}", *memory, *factor, *time))
        before = classes
    columns = ("K", "GFLOP", "peak MiB", "above the encoder", "K grew by", "memory by", "seconds", "seconds by")
    note = f"ResNet-50, {peers.NUM_PROMPTS} prompts a class, 2 images of {side}x{side}, ready text embeddings."
    return Section("A step with K classes", columns, rows, note)


def draw(figure: Any, growth: Mapping[int, Growth], seconds: PairedSeconds | None) -> None:
    """Memory and seconds against the number of classes."""
    axes = figure.subplots(1, 1 if seconds is None else 2, squeeze=False)[0]
    axes[0].plot(list(growth), [grown.above / MEBIBYTE for grown in growth.values()], marker="o")
    axes[0].set(xlabel="classes", ylabel="peak above the encoder, MiB")
    if seconds is not None:
        axes[1].plot(list(growth), [seconds.median(str(classes)) for classes in growth], marker="o")
        axes[1].set(xlabel="classes", ylabel="seconds a step")
    for axis in axes:
        axis.set_ylim(bottom=0)
    figure.set_size_inches(4 * len(axes), 3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line), measures and writes the report."""
    options = benchmark_parser("vocabulary", "A training step with more and more classes.").parse_args(arguments)
    classes: tuple[int, ...] = CLASSES
    side, rounds = 512, options.rounds
    if options.quick:
        classes, side, rounds = (20, 40), 64, min(rounds, 1)
    growth = {}
    for number in classes:
        print(f"counting K={number}", file=sys.stderr)
        growth[number] = measure_growth(number, side=side)
    seconds = time_growth(classes, side=side, rounds=rounds) if rounds > 0 else None
    write_report(
        "vocabulary",
        title="More classes",
        command=f"python -m benchmarks.vocabulary {' '.join(sys.argv[1:] if arguments is None else arguments)}".strip(),
        sections=[growth_section(growth, seconds, side)],
        numbers={
            "counts": {number: asdict(grown) for number, grown in growth.items()},
            "seconds": [] if seconds is None else list(seconds.rounds),
        },
        draw=lambda figure: draw(figure, growth, seconds),
        folder=report_folder(options),
    )


if __name__ == "__main__":
    main()
