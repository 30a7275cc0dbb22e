"""The moving average of a run predicts as its checkpoint does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainers.tiny_runs import MTACLIP, run_training
from trainers.assemble import restore_model
from trainers.run.checkpoints import load_checkpoint
from trainers.run.validation import Validation


def test_every_validation_of_an_average_is_that_of_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = np.random.default_rng(0).standard_normal((2, 13, 24)).astype(np.float32)
    np.save(tmp_path / "bank.npy", bank)
    validate, seen = Validation.__call__, []

    def look(validation: Validation, iteration: int) -> bool:
        best = validate(validation, iteration)
        model = validation.forward.model
        assert torch.equal(model.text_embeddings, torch.from_numpy(bank))
        with torch.inference_mode():
            seen.append(model(torch.ones(1, 3, 40, 40)))
        return best

    monkeypatch.setattr(Validation, "__call__", look)
    options = ["--train.ema_decay=0.5", f"--model.text_embeddings={tmp_path / 'bank.npy'}", "--train.validate_every=1"]
    folder = run_training(tmp_path / "run", *MTACLIP, *options, "--model.classification=text")
    checkpoint = load_checkpoint(folder / "last.pt")
    assert len(seen) == checkpoint.iteration == 4
    for weights in (checkpoint.model, checkpoint.average):
        assert torch.equal(weights["prompts.embeddings"], torch.from_numpy(bank))
    with torch.inference_mode():
        restored = restore_model(checkpoint).eval()(torch.ones(1, 3, 40, 40))
    torch.testing.assert_close(restored, seen[-1], atol=1e-5, rtol=1e-5)  # images lay in another memory format
