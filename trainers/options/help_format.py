"""How ``--help`` of the commands reads."""

from __future__ import annotations

import json
import re
from argparse import Action

from jsonargparse import DefaultHelpFormatter

_SPELLINGS = (
    (r"<class '(\w+)'>", r"\1"),
    (r"Optional\[(.*)\]", r"\1|null"),
    (r"Literal\[(.*?)\]", r"{\1}"),
    (r"Union\[(\{[^}]*\}), ?\{'?joint'?\}\]", r"\1"),  # which is said by --data.sets
    (r"^bool$", "{true,false}"),
    (r"tuple|'| ", ""),
)


class CommandLineHelp(DefaultHelpFormatter):
    """Spells what an option takes, and its default, as they are written on the command line.

    So a pair of integers is ``[int,int]`` with the default ``[128,128]``, not a ``tuple[int, int]`` and
    ``(128, 128)``.
    """

    def _format_args(self, action: Action, default_metavar: str) -> str:
        kind = self._get_type_str(action)
        return _spell_type(kind) if kind and action.option_strings else super()._format_args(action, default_metavar)

    def _get_help_string(self, action: Action) -> str:
        if self._get_type_str(action) is None:  # takes no value, or a file of many
            return super()._get_help_string(action)
        note = "required" if action.required else f"default: {_spell_value(action.default)}"
        return f"{action.help} ({note})"


def _spell_type(kind: str) -> str:
    for pattern, spelling in _SPELLINGS:
        kind = re.sub(pattern, spelling, kind)
    return kind


def _spell_value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
