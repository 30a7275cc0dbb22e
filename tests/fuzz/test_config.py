"""Options of the command line, and configurations in YAML, with any value."""

from __future__ import annotations

from argparse import ArgumentError
from dataclasses import asdict

import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.outcomes import outcome
from trainers.foundation.errors import UserError
from trainers.options.config import Config
from trainers.options.parsing import config_from_yaml, config_to_yaml, parse_config

DEFAULTS = {
    f"{section}.{name}": yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    for section, options in asdict(Config()).items()
    for name, value in options.items()
}
numbers = ("nan", ".inf", "-.inf", "-1", "0", "1", "1e309", "[]", "[1]", "[1, 2]", "[0.5, 2]", "[.nan, 1]", "[-1, 3]")
others = ("null", "true", "{}", "{a: 1}", "auto", "packaged", "*x", "&x 1", "!!python/name:os.system", "'", "")
values = st.sampled_from((*numbers, *others)) | st.text(st.characters(exclude_characters="\0"), max_size=6)


pairs = st.sampled_from(sorted(DEFAULTS.items()))
wrong_pairs = st.tuples(st.sampled_from((*DEFAULTS, "data", "nothing", "config")), values)


@given(st.lists(pairs, max_size=3), st.lists(wrong_pairs, max_size=1))
def test_command_line(right, wrong) -> None:
    with outcome(ArgumentError, UserError, valid=None if wrong else True):
        config = parse_config([part for name, value in (*right, *wrong) for part in (f"--{name}", value)])
        assert config_from_yaml(config_to_yaml(config)) == config or "nan" in repr(config)


@given(st.sampled_from(sorted(DEFAULTS)), values)
def test_yaml(option, value) -> None:
    section, name = option.split(".")
    with outcome(ArgumentError, UserError, valid=None):
        assert isinstance(config_from_yaml(f"{section}:\n  {name}: {value}\n"), Config)
