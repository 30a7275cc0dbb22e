"""Checkpoints that are damaged, or whole files of other content."""

from __future__ import annotations

import io
from functools import cache

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.files import damaged
from tests.fuzz.outcomes import outcome
from trainers.foundation.errors import UserError
from trainers.options.config import Config
from trainers.run.checkpoints import Checkpoint, ValidationState, load_checkpoint, save_checkpoint

CHECKPOINT = Checkpoint(
    config=Config(),
    class_names=("sky", "road"),
    iteration=7,
    validation=ValidationState(),
    model={"weight": torch.arange(6.0)},
    average=None,
    optimizer={"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1}]},
    scheduler={"last_epoch": 7},
    scaler={},
)


@cache
def content(scratch) -> bytes:
    save_checkpoint(CHECKPOINT, scratch / "whole.pt")
    return (scratch / "whole.pt").read_bytes()


@given(st.data())
def test_damaged_checkpoints(scratch, data) -> None:
    path = scratch / "damaged.pt"
    path.write_bytes(data.draw(damaged(content(scratch))))
    with outcome(UserError, valid=path.read_bytes() == content(scratch) or None):
        assert load_checkpoint(path).class_names == ("sky", "road")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(torch.ones(2)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=2),
    max_leaves=4,
)
texts = st.sampled_from(
    ("", "data: 1", "model: {arch: 5}", "train: {seed: x}", "[", "a: &b [*b]", "!!python/name:os.x")
)


@given(st.sampled_from((*Checkpoint.__dataclass_fields__, "nothing", "everything")), anything | texts)
def test_checkpoints_of_other_content(scratch, field, value) -> None:
    path = scratch / "other.pt"
    save_checkpoint(CHECKPOINT, path)
    whole = torch.load(path, weights_only=True)
    if field == "everything":
        whole = value
    elif field != "nothing":
        whole[field] = value
    file = io.BytesIO()
    torch.save(whole, file)
    path.write_bytes(file.getvalue())
    with outcome(UserError, valid=None if field != "nothing" else True):
        checkpoint = load_checkpoint(path)
        assert isinstance(checkpoint.config, Config) and isinstance(checkpoint.validation, ValidationState)
