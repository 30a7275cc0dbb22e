"""Heads on encoders, all trained alike: ``python -m benchmarks.backbones --encoders A,B --heads mtaclip,fpn ...``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from benchmarks.comparison.heads import HEADS, Head, with_encoder, with_head
from benchmarks.comparison.options import comma_separated, comparison_parser, parse_comparison
from benchmarks.comparison.study import Study
from benchmarks.comparison.tables import accuracy_table, class_table, difference_table
from benchmarks.comparison.trials import Trial
from trainers.foundation.errors import main_guard

OURS = "mtaclip"


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line), trains what is missing and writes the pages."""
    parser = comparison_parser("backbones", "Trains each head on each encoder alike, and compares them.")
    parser.add_argument(
        "--encoders",
        type=comma_separated,
        help="NAME or NAME=WEIGHTS, e.g. resnet50=imagenet,mit_b0; without weights untrained. Default: that of the "
        "configuration.",
    )
    parser.add_argument("--heads", type=comma_separated, default=HEADS, help=f"Among {', '.join(HEADS)}.")
    options, config = parse_comparison(parser, arguments)
    encoders = [with_encoder(config, encoder) for encoder in options.encoders] if options.encoders else [config]
    trials = [
        Trial(
            head,
            replace(with_head(of_encoder, cast("Head", head)), train=replace(config.train, seed=seed)),
            every_classification=head == OURS,  # these trainings are the ablation's too
        )
        for of_encoder in encoders
        for head in options.heads
        for seed in options.seeds
    ]
    study = Study("backbones", "Heads and encoders", config, options)
    if options.plan:
        study.print_plan(trials)
        return
    records = study.run(trials, keep=[trial for trial in trials if trial.config.train.seed == options.seeds[0]])
    rows = study.rows(records, study.costs(trials))
    tables = [accuracy_table("Accuracy and costs", rows)]
    if OURS in options.heads and len(options.heads) > 1:
        tables.append(difference_table(f"How far {OURS} is ahead", rows, OURS))
    for encoder in dict.fromkeys(row.encoder for row in rows):
        of_encoder = [row for row in rows if row.encoder == encoder]
        tables.append(class_table(f"Classes, on {encoder}", of_encoder, images=study.class_images))
    study.write({"heads": rows}, tables)


if __name__ == "__main__":
    main()
