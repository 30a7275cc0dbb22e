from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import peers, step, vocabulary


def report_of(folder: Path, name: str) -> dict:
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((folder / f"{name}.json").read_text())
    assert report["command"].startswith(f"python -m benchmarks.{name} --quick")
    assert "torch" in report["versions"] and report["machine"]["processor"]
    return report["numbers"]


def test_step_counts_times_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "has_transformers", lambda: False)
    monkeypatch.setattr(step, "TEXT_TOWER", "tiny-wide")
    step.main(["--quick", "--rounds", "1", "--output", str(tmp_path)])
    numbers = report_of(tmp_path, "step")
    counts = numbers["counts"]["64"]
    assert counts["encoder alone"]["flops"] < counts["mtaclip, no text"]["flops"] < counts["mtaclip"]["flops"]
    assert counts["mtaclip"]["peak"] < counts["official flow"]["peak"]
    assert numbers["text"]["shared prefix"] < numbers["text"]["shortened"] < numbers["text"]["padded"]
    assert [part["name"] for part in numbers["parts"]][:2] == ["encoder", "pixel decoder"]
    assert "Mask2Former" not in numbers["seconds"][0]
    page = (tmp_path / "step.md").read_text()
    assert "## Timed at 64x64" in page and "| official flow |" in page


def test_step_says_which_peer_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "has_transformers", lambda: False)
    assert step.MASK2FORMER not in step.contenders([step.OURS, step.MASK2FORMER])
    assert "transformers is not installed, so Mask2Former is left out" in capsys.readouterr().out


def test_vocabulary_counts_and_reports(tmp_path: Path) -> None:
    vocabulary.main(["--quick", "--rounds", "0", "--output", str(tmp_path)])
    counts = report_of(tmp_path, "vocabulary")["counts"]
    assert counts["20"]["above"] < counts["40"]["above"] < 2 * counts["20"]["above"]
