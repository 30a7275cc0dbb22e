"""open_clip models by name and tag, with failures told in one sentence."""

from __future__ import annotations

import difflib
import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import open_clip
import torch
from open_clip.pretrained import download_pretrained_from_hf
from safetensors import SafetensorError

_RANDOM_SEED = 0
_UNREACHABLE = (OSError, RuntimeError, KeyError, EOFError, UnpicklingError, SafetensorError)


def create_clip(name: str, pretrained: str | None) -> Any:
    """Builds an open_clip model, both of its sides, on the default device; on the CPU where that is "meta".

    Args:
        name: open_clip model name, or ``hf-hub:...`` or ``local-dir:...``.
        pretrained: open_clip tag or a file of weights, or anything for those that ``hf-hub:...`` or
            ``local-dir:...`` brings; ``None`` draws random weights, the same ones everywhere.

    Raises:
        ValueError: for an unknown name or tag, or a file that holds no weights of this model.
        ConnectionError: if weights could not be fetched, or are not in the folder.
    """
    _check_name(name, pretrained)
    # Some tags were trained with QuickGELU under a name whose configuration says GELU.
    quick_gelu = bool(pretrained and open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False))
    with one_sentence_on_failure(name, pretrained), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(_RANDOM_SEED)  # torch.manual_seed would seed the GPUs too, for good
        model = open_clip.create_model(
            name,
            pretrained=pretrained,
            load_weights=pretrained is not None,
            require_pretrained=pretrained is not None,  # a folder without weights would give random ones
            pretrained_text=False,
            force_quick_gelu=quick_gelu,
        )
    # No checkpoint of a segmentation model has a tower's weights, so what is built without them would stay so.
    device = torch.get_default_device()
    return model if device.type == "meta" else model.to(device)


def check_tokenizer(name: str) -> None:
    """Refuses a tokenizer that is a program, which whoever made the model wants to be trusted with.

    Args:
        name: the model's, as ``create_clip`` has it.

    Raises:
        ValueError: if the model's configuration asks for code of its own.
    """
    schema, _, source = name.partition(":")
    if schema not in ("hf-hub", "local-dir"):
        return
    file = "open_clip_config.json"
    path = Path(source, file) if schema == "local-dir" else download_pretrained_from_hf(source, filename=file)
    text = json.loads(Path(path).read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
    if text.get("tokenizer_kwargs", {}).get("trust_remote_code"):
        raise ValueError(
            f"the tokenizer of '{name}' is code of its own, which could do anything and is not run; pass ready "
            "embeddings with text_encoder='bank'"
        )


@contextmanager
def one_sentence_on_failure(name: str, pretrained: str | None) -> Iterator[None]:
    """Tells in one sentence what open_clip could not read or fetch."""
    try:
        yield
    except Exception as error:
        # An OSError beside a file that is there tells of another part: the tokenizer, or the tower's configuration.
        if pretrained is not None and Path(pretrained).is_file() and not isinstance(error, OSError | ImportError):
            raise ValueError(f"the file '{pretrained}' holds no weights of text encoder '{name}'") from error
        if not isinstance(error, _UNREACHABLE):
            raise
        raise ConnectionError(
            f"text encoder '{name}' with weights '{pretrained}' could not be fetched ({_first_line(error)}); "
            "connect to the network, pass a file as text_pretrained, or ready embeddings with text_encoder='bank'"
        ) from error


def _check_name(name: str, pretrained: str | None) -> None:
    if name.startswith(("hf-hub:", "local-dir:")):
        return
    models = open_clip.list_models()
    if name not in models:
        close = difflib.get_close_matches(name, models, cutoff=0.5)
        hint = f"did you mean {' or '.join(repr(c) for c in close)}?" if close else "see open_clip.list_models()"
        raise ValueError(f"open_clip has no text encoder '{name}'; {hint}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is not None and not open_clip.get_pretrained_cfg(name, pretrained) and not Path(pretrained).is_file():
        raise ValueError(f"'{pretrained}' is neither a file nor a tag of '{name}'; its tags are {tags}")


def _first_line(error: BaseException) -> str:
    return textwrap.shorten(str(error).strip().partition("\n")[0], 200, placeholder=" ...")
