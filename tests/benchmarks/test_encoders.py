from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import encoders
from benchmarks.encoder_list import ENCODERS, REFUSED


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("resnet18", "tu-maxvit_rmlp_pico_rw_256", "tu-vit_base_patch16_clip_224", "clip:tiny-flat")
    monkeypatch.setattr(encoders, "ENCODERS", {name: ENCODERS.get(name, {}) for name in names})
    monkeypatch.setattr(encoders, "REFUSED", ("tu-levit_128s",))


def rows(text: str) -> dict[str, list[str]]:
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| `")
    return {row[0].strip("`"): row[1:] for row in cells}


def test_a_row_says_what_an_encoder_is() -> None:
    resnet = encoders.measure("resnet18").cells()
    assert resnet[1:6] == ("smp", "11.2", "4: 64, 8: 128, 16: 256, 32: 512", "none", "32")
    # 1.81 billion multiplications and as many additions at 224 x 224, without the classifier's half a million.
    assert float(resnet[6]) == pytest.approx(2 * 1.814 * (512 / 224) ** 2, rel=5e-3)
    assert resnet[7] == "smp: the weights'"
    vit = encoders.measure("tu-vit_base_patch16_clip_224", embed_dim=96).cells()
    assert vit[1] == "plain ViT" and vit[3:6] == ("16: 96", "4, 8, 32", "32") and vit[7] == "timm: CLIP's"


def test_attention_is_counted() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            tokens = self.weight * image.flatten(2)
            return [nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)]

    # Three tokens of 8 x 8 numbers: weights (3, 3) and their product with the values, each of 3 * 3 * 64 pairs.
    assert encoders._flops(Attention(), 8) == 2 * 2 * 3 * 3 * 64


def test_the_quick_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    encoders.main(["--quick"])
    text = capsys.readouterr().out
    assert "`python -m benchmarks.encoders --quick` with torch " in text and "narrowed" in text
    table = rows(text)
    assert list(table) == [*encoders.ENCODERS, "tu-levit_128s"]
    assert table["tu-vit_base_patch16_clip_224"][1] == "1.4" and table["clip:tiny-flat"][0] == "CLIP"
    assert table["tu-maxvit_rmlp_pico_rw_256"][4] == "256"
    assert table["tu-levit_128s"] == [encoders.refusal("tu-levit_128s")]


def test_the_table_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "ENCODERS", {"resnet18": {}})
    monkeypatch.setattr(encoders, "OUTPUT", tmp_path / "encoders.md")
    encoders.main([])
    text = (tmp_path / "encoders.md").read_text()
    assert "Written by `python -m benchmarks.encoders` with torch " in text and "narrowed" not in text


def test_an_encoder_that_is_not_refused_is_told() -> None:
    with pytest.raises(RuntimeError, match="'resnet18' is not refused; move it"):
        encoders.refusal("resnet18")


def test_the_written_table_is_of_the_present_list() -> None:
    text = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text()
    assert list(rows(text)) == [*ENCODERS, *REFUSED]
    assert "Written by `python -m benchmarks.encoders` with " in text
