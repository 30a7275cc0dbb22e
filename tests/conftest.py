"""Small towers and models that need no network."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

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
