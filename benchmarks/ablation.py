"""The parts of MTA-CLIP one by one: ``python -m benchmarks.ablation [--tower NAME] ...``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.comparison.options import comma_separated, comparison_parser, integers, parse_comparison
from benchmarks.comparison.records import Record
from benchmarks.comparison.rungs import FULL, GROUPS, bank_rungs, prompt_rungs
from benchmarks.comparison.study import Study
from benchmarks.comparison.summary import Row
from benchmarks.comparison.tables import accuracy_table, difference_table
from benchmarks.comparison.trials import CLASSIFICATIONS, Trial
from benchmarks.text_sources import random_bank, shuffled, write_bank
from trainers.assemble import bank_file, create_dataset
from trainers.foundation.errors import UserError, main_guard, user_errors
from trainers.options.config import Config
from trainers.text.text_bank import load_text_bank

CONTROL_SEED = 0
"""Of the order of shuffled rows, and of random ones: all trainings of a rung have the same text."""
CONTROLS = {"shuffled": shuffled, "random": random_bank}
"""Text that knows nothing of the classes, made of a bank and a seed."""


def write_controls(config: Config, folder: Path) -> dict[str, Path]:
    """Writes text that knows nothing of the classes: the configured bank shuffled among them, and random vectors.

    Raises:
        UserError: There is no bank of one row a class to make them of, or the folder's are of another one.
    """
    with user_errors():
        class_names = create_dataset(config.data, config.data.train_split).class_names
        bank = load_text_bank(bank_file(config), class_names)
        folder.mkdir(parents=True, exist_ok=True)
        files = {name: folder / f"{name}.safetensors" for name in CONTROLS}
        for name, control in CONTROLS.items():
            embeddings = control(bank, CONTROL_SEED)
            if not files[name].exists():
                write_bank(files[name], embeddings, class_names, f"{name}, of {bank_file(config).name}")
            elif not torch.equal(load_text_bank(files[name], class_names), embeddings):
                raise UserError(f"{files[name]} is of other text than {bank_file(config)}; choose another --output.")
    return files


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
        banks |= write_controls(config, options.output / "banks")
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
