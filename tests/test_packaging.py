"""The wheel that users get."""

from __future__ import annotations

import subprocess
import sys
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

pytest.importorskip("build", reason="what builds the wheel is not installed")

ROOT = Path(__file__).parents[1]
WITHOUT_EXTRAS = """
import sys

class Extras:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ignite", "jsonargparse", "kornia", "tensorboard", "tifffile", "transformers"}:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

sys.meta_path.insert(0, Extras())
"""
ONE_CHANGED_LINE = """
import segmentation_models_pytorch as smp
import torch

import mtaclip_plugin

assert mtaclip_plugin.__file__.startswith(FOLDER), mtaclip_plugin.__file__
model = smp.create_model(
    "mtaclip", encoder_name="resnet18", encoder_weights=None, classes=3, class_names=["sky", "road", "car"],
    text_encoder="bank", text_embeddings=torch.eye(3, 8),
)
labels = torch.ones(2, 64, 64).long()
loss = smp.losses.DiceLoss("multiclass", ignore_index=255)(model(torch.rand(2, 3, 64, 64)), labels)
loss.backward()
assert mtaclip_plugin.vocabulary("voc") and mtaclip_plugin.zero_shot_split("voc").unseen  # data of the package
print("ran")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


def test_its_metadata_is_complete(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
        assert {each.partition("/")[0] for each in archive.namelist()} == {
            "mtaclip_plugin",
            f"mtaclip_plugin-{metadata['Version']}.dist-info",
        }
    assert f"## {metadata['Version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for field in ("Summary", "License-Expression", "Requires-Python", "Keywords", "Classifier", "Requires-Dist"):
        assert metadata[field], field
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_it_runs_without_extras(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "installed"
    with ZipFile(wheel) as archive:
        archive.extractall(folder)
    code = WITHOUT_EXTRAS + ONE_CHANGED_LINE.replace("FOLDER", repr(str(folder)))
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    assert ran.returncode == 0 and ran.stdout.strip() == "ran", ran.stderr
