"""How ``--help`` of the commands reads."""

from __future__ import annotations

import json
import re
from argparse import Action

from jsonargparse import DefaultHelpFormatter

LONGEST_TYPE = 60
"""Characters of what an option takes, above which its help lists the choices."""
_SPELLINGS = (
    (r"<class '(\w+)'>", r"\1"),
    (r"Optional\[(.*)\]", r"\1|null"),
    (r"Literal\[(.*?)\]", r"{\1}"),
    (r"Union\[(.*\]), (\w+), null\]", r"\1|\2|null"),
    (r"^bool$", "{true,false}"),
    (r"tuple|'| ", ""),
)


class CommandLineHelp(DefaultHelpFormatter):
    """Spells what an option takes, and its default, as they are written on the command line.

    So a pair of integers is ``[int,int]`` with the default ``[128,128]``, not a ``tuple[int, int]`` and
    ``(128, 128)``. Of many choices the help tells, which is broken into lines.
    """

    def _format_args(self, action: Action, default_metavar: str) -> str:
        kind = self._get_type_str(action)
        if not kind or not action.option_strings:
            return super()._format_args(action, default_metavar)
        spelled = _spell_type(kind)
        return spelled if len(spelled) <= LONGEST_TYPE else "NAME"  # a line of its own is never broken

    def _get_help_string(self, action: Action) -> str:
        kind = self._get_type_str(action)
        if kind is None:  # takes no value, or a file of many
            return super()._get_help_string(action)
        note = "required" if action.required else f"default: {_spell_value(action.default)}"
        spelled = _spell_type(kind)
        choices = f" One of {spelled.strip('{}').replace(',', ', ')}." if len(spelled) > LONGEST_TYPE else ""
        return f"{action.help}{choices} ({note})"


def _spell_type(kind: str) -> str:
    for pattern, spelling in _SPELLINGS:
        kind = re.sub(pattern, spelling, kind)
    return kind


def _spell_value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
