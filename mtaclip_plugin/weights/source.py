"""Where a model of transformers is read from: memory, a folder, or the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from torch import Tensor, nn


def read_source(source: nn.Module | str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of a model of transformers.

    Args:
        source: the module itself, a folder with its ``config.json`` and safetensors, or its name on the hub.

    Raises:
        ValueError: if the files are no such files.
        FileNotFoundError: if the folder lacks the configuration or the weights.
        ConnectionError: if the hub's files could not be fetched.
    """
    if isinstance(source, nn.Module):
        to_dict = getattr(getattr(source, "config", None), "to_dict", dict)
        return to_dict(), source.state_dict()
    folder = Path(source) if Path(source).is_dir() else _download(str(source))
    config, shards = folder / "config.json", sorted(folder.glob("*.safetensors"))
    if not config.is_file() or not shards:
        raise FileNotFoundError(f"'{folder}' lacks config.json or safetensors; write both with save_pretrained()")
    try:
        state = {name: weight for shard in shards for name, weight in safetensors.torch.load_file(shard).items()}
        entries = json.loads(config.read_text(encoding="utf-8"))
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"the files in '{folder}' can not be read ({error}); fetch or save them again") from error
    if not isinstance(entries, dict):
        raise ValueError(f"'{config}' is no configuration of a model, but {entries!r}")
    return entries, state


def _download(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=["config.json", "*.safetensors"]))
    except HFValidationError as error:
        raise FileNotFoundError(f"there is no folder '{name}', and the hub has no such names") from error
    except OSError as error:
        raise ConnectionError(
            f"'{name}' is no folder and could not be fetched from the hub; connect to the network, fill the hub's "
            "cache beforehand, or pass a folder with config.json and safetensors"
        ) from error
