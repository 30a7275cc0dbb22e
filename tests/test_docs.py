"""What the README and the pages say can be run, and leads somewhere."""

from __future__ import annotations

import ast
import doctest
import importlib
import io
import pkgutil
import re
import runpy
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch

import mtaclip_plugin as mta
from tests import test_model
from tests.trainers.tiny_runs import MTACLIP, run_training

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = [page for page in PAGES if page.parent.name not in {path.name for path in (ROOT / "docs/results").iterdir()}]
"""The pages that people wrote; the others are written by programs, some of them long ago."""


def ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", re.sub(r"[`*]", "", each).lower()).replace(" ", "-") for each in found}


def test_the_readme_fits() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in headings(path), target


def test_code_that_is_named_is_there() -> None:
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    assert len(named) > 20
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        definitions = (node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef))
        assert name in {node.name for node in definitions}, f"{file}::{name}"


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of each ``python -m`` of a page, module first."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split(" && "):
                _, found, module = command.partition("-m ")
                if found and not module.startswith("venv"):
                    yield shlex.split(module, comments=True)


@cache
def help_of(module: str) -> str:
    """What a command's ``--help`` prints."""
    program = importlib.import_module(module)
    if not hasattr(program, "main"):  # a package, which python -m runs by this
        program = importlib.import_module(f"{module}.__main__")
    output = io.StringIO()
    with redirect_stdout(output), pytest.raises(SystemExit) as stopped:
        program.main(["--help"])
    assert stopped.value.code in (0, None)
    return output.getvalue()


@pytest.mark.parametrize("page", WRITTEN, ids=ids)
def test_commands_have_options_that_there_are(page: Path) -> None:
    for module, *arguments in commands(page):
        known = help_of(module)
        if module.startswith("benchmarks."):
            known += help_of("trainers.train")  # whose options comparisons take, too
        for argument in arguments:
            if argument.startswith("--"):
                option = re.escape(argument.partition("=")[0])
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", known), f"{module} has no {argument}"
        for config in (each for each in arguments if each.endswith(".yaml") and "/" in each):
            assert (ROOT / config).exists(), config


def test_the_exported_graph_of_the_page_gives_the_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, onnxruntime: ModuleType
) -> None:
    page = (ROOT / "docs" / "inference.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- onnx -->\n```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    model = test_model.build(decoder_layers=1)
    names: dict[str, Any] = {"torch": torch, "model": model}
    exec(code, names)
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    image = torch.randn(1, 3, 160, 64)
    (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(logits, model(image).numpy(), atol=1e-3, rtol=1e-3)


def test_a_checkpoint_becomes_a_model_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- restore -->\n```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    run_training(Path("runs/mine"), *MTACLIP)
    names: dict[str, Any] = {}
    exec(code, names)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(smp.from_pretrained("runs/model").eval()(images), names["model"](images))


def test_the_example_of_another_head(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["swap_head.py", "--steps", "2"])
    runpy.run_path(str(ROOT / "docs" / "examples" / "swap_head.py"), run_name="__main__")
    output = capsys.readouterr().out
    assert len(re.findall(r"mean IoU of the 49 classes: [\d.]+ %", output)) == 3
    assert re.search(r"of the 16: [\d.]+ %\n  plain red circle: [\d.]+ %", output)


MODULES = [module.name for module in pkgutil.walk_packages(mta.__path__, "mtaclip_plugin.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    if name.endswith(".triton_kernels"):
        pytest.importorskip("triton", reason="there is no Triton here")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", [*mta.__all__, "register"])
def test_all_that_is_public_has_an_example(name: str) -> None:
    examples = doctest.DocTestFinder(recurse=False).find(getattr(mta, name), name)
    assert examples and examples[0].examples
    assert name in (mta.__doc__ or "") or name == "register"
