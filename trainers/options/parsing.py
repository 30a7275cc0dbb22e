"""The options of a training run, read from the command line and from YAML, and written as YAML."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from trainers.foundation.errors import require
from trainers.options.config import Config
from trainers.options.help_format import CommandLineHelp
from trainers.options.sets_config import GENERATED
from trainers.options.unknown import parse_options

DEMO = Path(__file__).parents[1] / "configs" / "kinds.yaml"

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def _parser(
    command: str = "python -m trainers.train",
    purpose: str = "Trains a segmentation model; without --config, --data.dataset and --data.sets, the demo.",
) -> ArgumentParser:
    parser = ArgumentParser(
        prog=command,
        usage=f"{command} [--config FILE] [--SECTION.OPTION VALUE ...]",
        description=f"{purpose} A list is written '[128,128]', no value null; --print_config shows what all options "
        "come to, as a file for --config.",
        formatter_class=CommandLineHelp,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML file; options after it override it.")
    parser.add_class_arguments(Config, as_group=False)
    return parser


def parse_config(arguments: Sequence[str] | None = None, **described: str) -> Config:
    """Reads ``--config FILE`` and ``--section.key value`` from ``arguments`` (default: the command line).

    Where these name neither a file nor data, they are those of the demo.

    Args:
        arguments: of the command line.
        **described: ``command`` and ``purpose`` in its help, if other than those of the training.

    Raises:
        argparse.ArgumentError: An unknown key in a file, or a value of the wrong type.
        UserError: An unknown option, or a value out of its range.
    """
    parser = _parser(**described)
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not any(argument.partition("=")[0] in ("--config", "--data.dataset", "--data.sets") for argument in given):
        given = [f"--config={DEMO}", *given]
    namespace = parse_options(parser, given)
    _refuse_nulls(namespace)
    config = _config(parser.instantiate(namespace))
    require(
        config.data.root is None or config.data.dataset not in GENERATED,
        f'--data.root is given, but the data set is "{config.data.dataset}", which has no files; add --data.dataset '
        "folder, or a --config that says so",
    )
    return config


class _ShortLists(yaml.SafeDumper):
    """Writes a list on one line."""


_ShortLists.add_representer(
    tuple, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)


def config_to_yaml(config: Config) -> str:
    """The YAML of every option, which `config_from_yaml` and ``--config`` read."""
    return yaml.dump(asdict(config), Dumper=_ShortLists, sort_keys=False)


def config_from_yaml(text: str) -> Config:
    """The configuration that `config_to_yaml` wrote.

    Raises:
        argparse.ArgumentError: An unknown key, or a value of the wrong type.
        UserError: A value out of its range.
    """
    parser = _parser()
    namespace = parser.parse_string(text)
    _refuse_nulls(namespace)
    return _config(parser.instantiate(namespace))


def _refuse_nulls(options: Namespace) -> None:
    """In a file jsonargparse takes null for a value of any type, and a single value for a section."""
    for section in fields(Config):
        given = options[section.name]
        require(isinstance(given, Namespace), f"{section.name} must be a section of options, but is {given!r}")
        for option in fields(getattr(Config, section.name)):
            absent = given[option.name] is None and "None" not in str(option.type)
            require(not absent, f"--{section.name}.{option.name} must have a value, but is null")


def _config(options: Namespace) -> Config:
    return Config(
        data=options.data,
        model=options.model,
        loss=options.loss,
        optim=options.optim,
        eval=options.eval,
        train=options.train,
    )
