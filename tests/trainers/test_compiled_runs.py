"""A run on two processes that is compiled for a part of the way."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from unittest.mock import patch

import ignite.distributed as idist
import pytest
import torch

from tests.trainers.tiny_runs import MTACLIP, TINY, run_training
from trainers import evaluate
from trainers.options.parsing import parse_config
from trainers.run.checkpoints import load_checkpoint
from trainers.train import train

OPTIONS = [*TINY, *MTACLIP, "--train.batch_size=4", "--train.resume=always"]


def go_on(local_rank: int, folder: str) -> None:
    """Trains until iteration 2 compiled, until 3 plainly, until 4 compiled."""
    torch.set_num_threads(1)
    with patch.object(torch, "compile", partial(torch.compile, backend="eager")):
        for iterations, compiled in ((2, "true"), (3, "false"), (4, "true")):
            way = [f"--train.iterations={iterations}", f"--train.compile={compiled}"]
            train(parse_config([*OPTIONS, f"--train.output={folder}", *way]))


@pytest.mark.exhaustive
def test_compiled_and_plain_parts_of_a_run_follow_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
    idist.spawn("gloo", go_on, args=(str(tmp_path / "run"),), nproc_per_node=2, nnodes=1, node_rank=0)
    together = load_checkpoint(tmp_path / "run" / "last.pt")
    plain = load_checkpoint(run_training(tmp_path / "plain", *OPTIONS) / "last.pt")
    assert together.iteration == 4 and together.model.keys() == plain.model.keys()
    assert together.optimizer["state"].keys() == plain.optimizer["state"].keys()
    scores = evaluate.evaluate(together, root=None, split=None, device="cpu")
    assert scores.mean_iou == pytest.approx(together.validation.scores.mean_iou, abs=1e-6)
