"""Options of the command line, and configurations in YAML, with any value."""

from __future__ import annotations

from argparse import ArgumentError
from dataclasses import asdict

import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.outcomes import outcome
from trainers.config import Config, config_from_yaml, config_to_yaml, parse_config
from trainers.errors import UserError

OPTIONS = sorted(f"{section}.{name}" for section, options in asdict(Config()).items() for name in options)
numbers = ("nan", ".inf", "-.inf", "-1", "0", "1", "1e309", "[]", "[1]", "[1, 2]", "[0.5, 2]", "[.nan, 1]", "[-1, 3]")
others = (
    "null",
    "true",
    "{}",
    "{a: 1}",
    "auto",
    "always",
    "packaged",
    "*x",
    "&x 1",
    "!!python/name:os.system",
    "'",
    "",
)
values = st.sampled_from((*numbers, *others, "\0")) | st.text(max_size=6)


@given(st.lists(st.tuples(st.sampled_from((*OPTIONS, "data", "nothing", "config")), values), max_size=3))
def test_command_line(pairs) -> None:
    with outcome(ArgumentError, UserError, valid=None if pairs else True):
        config = parse_config([part for name, value in pairs for part in (f"--{name}", value)])
        assert config_from_yaml(config_to_yaml(config)) == config or "nan" in repr(config)


@given(st.sampled_from(OPTIONS), values)
def test_yaml(option, value) -> None:
    section, name = option.split(".")
    text = config_to_yaml(Config())
    default = yaml.safe_dump({name: asdict(Config())[section][name]}).strip()
    changed = text.replace(f"  {default.splitlines()[0]}", f"  {name}: {value}", 1)
    with outcome(ArgumentError, UserError, valid=None):
        assert isinstance(config_from_yaml(changed), Config)
