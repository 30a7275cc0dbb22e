"""The parts of MTA-CLIP, one by one: the steps of the ablation, as changes of one configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from trainers.options.config import Config

Group = Literal["ladder", "contrastive mode", "temperature", "text positions", "text", "small data"]
GROUPS: tuple[Group, ...] = get_args(Group)
FULL = "mask-text decoder + contrastive"
"""The configuration as it is given: all parts, with a bank of ready embeddings."""


@dataclass(frozen=True)
class Rung:
    """A variant of the model.

    Attributes:
        group: what it is compared within; the first of a group is what the others are compared with.
        name: of the variant, once in a group.
        model: options of the model that differ.
        loss: options of the loss that differ.
    """

    group: Group
    name: str
    model: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)

    def applied_to(self, config: Config) -> Config:
        """The configuration with the rung's options."""
        return replace(config, model=replace(config.model, **self.model), loss=replace(config.loss, **self.loss))


def bank_rungs(banks: Mapping[str, Path]) -> list[Rung]:
    """The rungs that ready embeddings are enough for.

    Args:
        banks: files of text to compare by name, beside that of the configuration.
    """
    hungarian = {"assignment": "hungarian", "absent_mask_weight": 0.0}  # no query has a class there
    return [
        Rung("ladder", "no text", {"text_encoder": None}),
        Rung("ladder", "mask-text decoder", loss={"contrastive_weight": 0.0}),
        Rung("ladder", FULL),
        Rung("temperature", "learned, from 0.07", {"temperature": 0.07, "learn_temperature": True}),
        Rung("temperature", "1, fixed", {"temperature": 1.0, "learn_temperature": False}),
        Rung("text positions", "one a prompt", {"text_positions": "prompt"}),
        Rung("text positions", "one a token", {"text_positions": "token"}),
        Rung("text", "real bank"),
        *(Rung("text", name, {"text_embeddings": str(path)}) for name, path in banks.items()),
        Rung("small data", "as configured"),
        Rung("small data", "masks of absent classes left alone", loss={"absent_mask_weight": 0.0}),
        Rung("small data", "Hungarian assignment", loss=hungarian),
        Rung("small data", "Hungarian assignment, 50 queries", {"num_queries": 50}, hungarian),
        Rung("small data", "pixel decoder fpn", {"pixel_decoder": "fpn"}),
    ]


def prompt_rungs(tower: Mapping[str, Any], prompts: Sequence[int]) -> list[Rung]:
    """The rungs that learn prompts through a text tower.

    Args:
        tower: options of the model that name the tower.
        prompts: numbers of contexts P; all modes are compared with 3 of them, the paper's number.
    """
    of_three = {**tower, "num_prompts": 3}
    return [
        *(Rung("ladder", f"+ learned prompts, P={count}", {**tower, "num_prompts": count}) for count in prompts),
        Rung("contrastive mode", "mixneg", of_three, {"contrastive_mode": "mixneg"}),
        Rung("contrastive mode", "separateneg", of_three, {"contrastive_mode": "separateneg"}),
        Rung("contrastive mode", "allpos", of_three, {"contrastive_mode": "allpos"}),
    ]
