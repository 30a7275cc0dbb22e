"""The parts of MTA-CLIP one by one: ``python -m benchmarks.ablation [--tower NAME] ...``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.comparison.controls import Control, write_controls
from benchmarks.comparison.options import comma_separated, comparison_parser, integers, parse_comparison
from benchmarks.comparison.records import Record
from benchmarks.comparison.rungs import FULL, GROUPS, bank_rungs, prompt_rungs
from benchmarks.comparison.study import Study
from benchmarks.comparison.summary import Row
from benchmarks.comparison.tables import accuracy_table, difference_table
from benchmarks.comparison.trials import CLASSIFICATIONS, Trial
from trainers.foundation.errors import UserError, main_guard

CONTROLS: Final[Sequence[Control]] = ("shuffled", "random")


def classification_records(records: Sequence[Record]) -> list[Record]:
    """Records as one for each way of naming the masks."""
    return [
        replace(record, contender=way, scores=record.evaluations[way], curve=())
        for way in CLASSIFICATIONS
        for record in records
    ]


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line), trains what is missing and writes the pages."""
    parser = comparison_parser("ablation", "Trains MTA-CLIP with more and more of its parts, and with other text.")
    parser.add_argument("--tower", help="open_clip model that prompts are learned through; default: none are.")
    parser.add_argument("--tower_pretrained", help="Tag or file of its weights; default: random ones.")
    parser.add_argument("--prompts", type=integers, default=(1, 2, 3, 5), help="Numbers of contexts.")
    parser.add_argument("--groups", type=comma_separated, default=GROUPS, help=f"Among {', '.join(GROUPS)}.")
    parser.add_argument("--banks", type=comma_separated, default=(), help="Other text to compare: NAME=FILE,...")
    options, config = parse_comparison(parser, arguments)
    if config.model.text_encoder != "bank":
        raise UserError('The ablation starts from ready embeddings; give it a configuration with text_encoder "bank".')
    banks = {name: Path(file) for name, _, file in (bank.partition("=") for bank in options.banks)}
    if taken := sorted(banks.keys() & {"real bank", *CONTROLS}):
        raise UserError(f"--banks {taken[0]} is a name of the ablation's own; choose another.")
    if unnamed := [name for name, file in banks.items() if file == Path()]:
        raise UserError(f"--banks {unnamed[0]} lacks a name or a file; write NAME=FILE.")
    if unknown := [group for group in options.groups if group not in GROUPS]:
        raise UserError(f"There is no group {unknown[0]!r}; choose among {', '.join(GROUPS)}.")
    if "text" in options.groups:
        banks |= write_controls(config, options.output / "banks", CONTROLS)
    rungs = bank_rungs(banks)
    if options.tower:
        tower = {"text_encoder": options.tower, "text_pretrained": options.tower_pretrained}
        rungs += prompt_rungs(tower, options.prompts)
    rungs = [rung for rung in rungs if rung.group in options.groups]
    if not rungs:
        raise UserError("Of these groups no rung can be made without a text tower; give --tower, or other groups.")
    as_given = [rung.name for rung in rungs if rung.applied_to(config) == config]
    trials = [
        Trial(
            rung.name,
            rung.applied_to(replace(config, train=replace(config.train, seed=seed))),
            every_classification=rung.name in as_given,
        )
        for rung in rungs
        for seed in options.seeds
    ]
    study = Study("ablation", "The parts of MTA-CLIP", config, options)
    if options.plan:
        study.print_plan(trials)
        return
    records = study.run(trials)
    groups: dict[str, list[Row]] = {}
    for group in dict.fromkeys(rung.group for rung in rungs):
        names = {rung.name for rung in rungs if rung.group == group}
        groups[group] = study.rows([record for record in records if record.contender in names])
    scored = [record for record in records if record.contender in as_given[:1] and record.evaluations]
    groups["classification"] = study.rows(classification_records(scored))
    groups = {title: rows for title, rows in groups.items() if rows}
    tables = []
    for title, rows in groups.items():
        tables.append(accuracy_table(title.capitalize(), rows))
        if len(rows) > 1:
            reference = FULL if title == "ladder" else rows[0].contender
            tables.append(difference_table(f"{title.capitalize()}: differences", rows, reference))
    study.write(groups, tables)


if __name__ == "__main__":
    main()
