"""How a search for ways of naming reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trainers.engine.calibration import Candidate
from trainers.scores.calibration import CalibrationPoint

_SCORES = f"{'seen':>10}{'unseen':>10}{'harmonic':>10}"


def format_search(candidates: Sequence[Candidate]) -> str:
    """Each way at its best calibration, the curve of the best way, all in %, and the options that it takes.

    Args:
        candidates: The ways, the best first.
    """
    best = candidates[0]
    ways = f"{'classification':<16}{'trained_text':<14}{'untrained_text':<16}{'calibration':<12}{_SCORES}"
    curve = f"{'calibration':<12}{_SCORES}"
    lines = ["Ways of naming, each at its best calibration:", ways, "-" * len(ways)]
    for candidate in candidates:
        scoring, point = candidate.scoring, candidate.best
        lines.append(
            f"{scoring.classification:<16}{scoring.trained_text:<14g}{scoring.untrained_text:<16g}{_line(point)}"
        )
    lines += ["", "The first of them by calibration:", curve, "-" * len(curve), *map(_line, best.curve)]
    options = " ".join(f"--model.{name} {value}" for name, value in best_options(best).items())
    return "\n".join([*lines, "", f"To evaluate or predict with the best: {options}"])


def search_to_dict(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """The search as JSON values; the best way comes first."""
    ways = [
        {
            "classification": candidate.scoring.classification,
            "trained_text": candidate.scoring.trained_text,
            "untrained_text": candidate.scoring.untrained_text,
            "curve": [asdict(point) for point in candidate.curve],
        }
        for candidate in candidates
    ]
    return {"best": best_options(candidates[0]), "ways": ways}


def best_options(candidate: Candidate) -> dict[str, Any]:
    """The options of `trainers.options.model_config.ModelConfig` that make scores as a candidate does at its best."""
    scoring = candidate.scoring
    return {
        "classification": scoring.classification,
        "trained_text": scoring.trained_text,
        "untrained_text": scoring.untrained_text,
        "calibration": candidate.best.calibration,
    }


def _line(point: CalibrationPoint) -> str:
    scores = (point.seen_mean_iou, point.unseen_mean_iou, point.harmonic_mean_iou)
    return f"{point.calibration:<12g}" + "".join(f"{100 * score:>10.1f}" for score in scores)
