"""Small towers and models that need no network."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

# The hub's library reads these when it is imported: no test may fetch weights, nor find any in a cache.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="empty-hub-")
# Workers side by side share the cores, and so do the programs that they start: each would take all of them.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

import open_clip
import pytest
import torch

_VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
_TEXT = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


def _with_vision(vision: dict[str, Any]) -> dict[str, Any]:
    return {"embed_dim": 24, "vision_cfg": vision, "text_cfg": _TEXT}


def _with_timm(name: str, pool: str, projection: str | None, size: int = 160) -> dict[str, Any]:
    vision = {"timm_model_name": name, "timm_pool": pool, "timm_proj": projection, "image_size": size}
    return _with_vision(vision) | {"custom_text": True}


TOWERS = {
    "tiny-flat": {"embed_dim": 24, "vision_cfg": _VISION, "text_cfg": _TEXT},
    "tiny-custom": {"embed_dim": 24, "custom_text": True, "vision_cfg": _VISION, "text_cfg": _TEXT},
    "tiny-wide": {  # where the projections outweigh attention, as in the real towers
        "embed_dim": 24,
        "vision_cfg": _VISION,
        "text_cfg": _TEXT | {"context_length": 77, "width": 256, "heads": 4},
    },
    "tiny-bidirectional": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": _VISION,
        "text_cfg": _TEXT | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    },
    "coca_tiny": {
        "embed_dim": 24,
        "vision_cfg": _VISION | {"attentional_pool": True, "output_tokens": True},
        "text_cfg": _TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        "custom_text": True,
    },
    "tiny-rn": _with_vision({"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}),
    "tiny-class-token": _with_vision(_VISION | {"image_size": 64, "layers": 2, "patch_size": 16}),
    "tiny-scaled": _with_vision(_VISION | {"image_size": 48, "scale_fc": True, "scale_attn": True, "qk_norm": True}),
    "tiny-late-norm": _with_vision(_VISION | {"image_size": 64, "final_ln_after_pool": True}),
    "tiny-mean": _with_vision(_VISION | {"image_size": 64, "pool_type": "avg", "output_tokens": True}),
    "tiny-late-mean": _with_vision(_VISION | {"image_size": 64, "pool_type": "avg", "final_ln_after_pool": True}),
    "tiny-attentional": _with_vision(_VISION | {"image_size": 64, "attentional_pool": True}),
    "tiny-attentional-mean": _with_vision(
        _VISION | {"image_size": 64, "attentional_pool": True, "attn_pooler_queries": 5, "pool_type": "avg"}
    ),
    "tiny-cascade": _with_vision(
        _VISION | {"image_size": 64, "attentional_pool": "cascade", "width": 24, "head_width": 8}
    ),
    "tiny-convnext": _with_timm("test_convnext", "", "linear"),
    "tiny-convnext-mlp": _with_timm("test_convnext2", "", "mlp"),
    "tiny-timm-token": _with_timm("test_vit", "token", None),
    "tiny-timm-mean": _with_timm("test_vit2", "avg", "linear"),
    "tiny-timm-latent": _with_timm("test_vit3", "map", "linear"),
    "tiny-timm-resnet": _with_timm("test_resnet", "", "linear"),
    "tiny-eva": _with_timm("eva02_tiny_patch14_224", "token", None, 224),
    "tiny-relative": _with_timm("vit_relpos_small_patch16_224", "", "linear", 224),
}


@pytest.fixture(scope="session", autouse=True)
def _tiny_towers(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.mktemp("open_clip")
    for name, config in TOWERS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def onnxruntime() -> ModuleType:
    """ONNX's runtime, where what exports for it is there too."""
    *_, runtime = (
        pytest.importorskip(package, reason=f"ONNX needs {package}, which is not installed")
        for package in ("onnx", "onnxscript", "onnxruntime")
    )
    return runtime
