"""What is said of an option that a command does not have."""

from __future__ import annotations

import difflib
import re
from argparse import ArgumentError
from collections.abc import Collection, Sequence

from jsonargparse import ArgumentParser, Namespace

from trainers.foundation.errors import UserError


def parse_options(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """The options in the arguments; to one that there is not, the nearest one is named.

    Raises:
        UserError: There is no such option.
        argparse.ArgumentError: A value of the wrong type.
    """
    try:
        return parser.parse_args(list(arguments))
    except ArgumentError as error:
        found = re.match(r"unrecognized arguments: --([^\s=]+)", str(error))
        if found is None:
            raise
        options = re.findall(r"--([\w.]+)", parser.format_help())
        raise UserError(_no_such_option(found[1], options, parser.prog)) from error


def _no_such_option(given: str, options: Collection[str], command: str) -> str:
    of_other_section = [option for option in options if option.rpartition(".")[2] == given]
    nearest = of_other_section or difflib.get_close_matches(given, options, n=1)
    hint = f"the nearest is --{nearest[0]}" if nearest else f"{command} --help lists all"
    return f"There is no option --{given}; {hint}."
