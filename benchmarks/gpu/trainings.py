"""Trainings on CamVid, several side by side on the card: ours with and without text, and two pixel heads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from benchmarks.comparison.records import load_record
from benchmarks.comparison.summary import Spread
from benchmarks.comparison.trials import RECORDS
from benchmarks.gpu.bench import Bench, Outcome
from benchmarks.report import Section
from trainers.options.data_config import DATA_ROOT_VARIABLE

HEADS = ("mtaclip", "mask2former", "fpn", "segformer")
SEEDS = 3
LEAST_SECONDS = 60.0
CAMVID = (
    *("--config", "trainers/configs/small_data.yaml"),
    *("--data.ignore_ids", "[11]"),
    *("--data.crop_size", "[256,320]"),
    *("--data.num_workers", "3"),
    *("--model.text_embeddings", "trainers/data/camvid_text.safetensors"),
    *("--train.batch_size", "8"),
    *("--train.validate_every", "500"),
    *("--iterations", "2000"),
)
SHAPES = (
    *("--data.dataset", "shapes", "--data.size", "40", "--data.train_length", "4", "--data.val_length", "2"),
    *("--data.crop_size", "[32,32]", "--optim.warmup_iterations", "1"),
    *("--model.encoder_name", "resnet18", "--model.encoder_weights", "null", "--model.decoder_channels", "64"),
    *("--model.decoder_layers", "1", "--loss.num_points", "64", "--train.batch_size", "2", "--iterations", "2"),
)


def train_heads(bench: Bench, folder: Path) -> Outcome:
    """Trains for the time that is left, one seed of all heads after the other; what is cut off goes on next time.

    Args:
        bench: device and time.
        folder: of the comparison.
    """
    notes = []
    options, heads, seeds = (SHAPES, HEADS[::2], 1) if bench.quick else (CAMVID, HEADS, SEEDS)
    if not bench.quick and DATA_ROOT_VARIABLE not in os.environ:
        return Outcome(
            (Section("Trainings", ("", ""), [("not run", f"{DATA_ROOT_VARIABLE} does not say where CamVid is")]),)
        )
    for seed in range(seeds):
        if bench.left < LEAST_SECONDS:
            notes.append("The time was up; the same command goes on.")
            break
        command = [sys.executable, "-m", "benchmarks.backbones", *options, "--train.device", str(bench.device)]
        command += ["--heads", ",".join(heads), "--seeds", ",".join(map(str, range(seed + 1)))]
        command += ["--jobs", str(1 if bench.quick else len(heads)), "--rounds", "1", "--output", str(folder)]
        if not _ended_in_time(command, bench.left - LEAST_SECONDS / 2):
            notes.append("The trainings were cut off; the same command goes on.")
    records = [load_record(path) for path in sorted((folder / RECORDS).glob("*.json"))]
    scores: dict[str, dict[int, float]] = defaultdict(dict)
    for record in records:
        if record.scores.mean_iou is not None:
            scores[record.contender][record.seed] = 100 * record.scores.mean_iou
    rows = [(head, str(len(scores[head])), _mean(scores[head])) for head in heads if head in scores]
    rows = rows or [("none has ended", "", "")]
    what = "generated figures" if bench.quick else "CamVid at 480x360, 2000 steps of 8 crops of 256x320"
    section = Section(f"Trainings: {what}", ("head", "seeds", "mIoU, %"), rows, " ".join(notes))
    return Outcome(
        (section,), {head: {str(seed): score for seed, score in its.items()} for head, its in scores.items()}
    )


def _mean(scores: dict[int, float]) -> str:
    spread = Spread(tuple(scores.values()))
    return f"{spread.mean:.1f} ± {spread.deviation:.1f}" if len(scores) > 1 else f"{spread.mean:.1f}"


def _ended_in_time(command: list[str], seconds: float) -> bool:
    """Runs a comparison; one that takes too long is ended, and its checkpoints stay.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    process = subprocess.Popen(command, stdout=sys.stderr)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # with it the processes of its trainings end
        process.wait()
        return False
    if code != 0:
        raise subprocess.CalledProcessError(code, command)
    return True
