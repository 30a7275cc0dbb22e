"""Mask-Text Prompt Learning: learned contexts before each class name (section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtaclip_plugin.text.class_names import NONE_NAME, are_as_saved
from mtaclip_plugin.text.fixed import Move, WithFixedTensors
from mtaclip_plugin.text.shared_prefix import SharedPrefixEncoder
from mtaclip_plugin.text.tower import PLACEHOLDER, TextTower


class PromptLearner(WithFixedTensors):
    """``[v_p1 ... v_pL][class name]`` through a frozen text tower, for P contexts that all classes share.

    Only the contexts are parameters. They stay float32 under autocast.

    Args:
        tower: the frozen text tower.
        class_names: the K class names; "none" is added.
        num_prompts: contexts P.
        context_length: learned tokens L of each.
        shared_prefix: whether causal towers compute the contexts' states once a prompt instead of once a class,
            which is exact to rounding and many times cheaper; other towers never do.

    Raises:
        ValueError: if a prompt is longer than the tower reads, two names are one to the tokenizer, or it has no token
            to put contexts for.
    """

    encoder: SharedPrefixEncoder | None

    def __init__(
        self,
        tower: TextTower,
        class_names: Sequence[str],
        *,
        num_prompts: int = 3,
        context_length: int = 8,
        shared_prefix: bool = True,
    ) -> None:
        super().__init__()
        self.tower = tower
        self.num_prompts = num_prompts
        # As in CoOp; the official code draws them with a standard deviation of 1.
        self.contexts = nn.Parameter(torch.randn(num_prompts, context_length, tower.width) * 0.02)
        names = (*class_names, NONE_NAME)
        prompts = [" ".join([PLACEHOLDER] * context_length + [name]) for name in names]
        for name, fits in zip(names, tower.fits(prompts), strict=True):
            if not fits:
                raise ValueError(
                    f"class name '{name}' after {context_length} learned tokens is longer than the "
                    f"{tower.context_length} tokens that '{tower.name}' reads; shorten it, or context_length"
                )
        ids = tower.tokenize(prompts)
        if not are_as_saved():
            _check_told_apart(tower, names, ids)
        self._fix(ids=ids, text=None, source=None)
        self.start = _find_placeholders(tower, ids[0], context_length)
        encoder = SharedPrefixEncoder.serving(tower, ids, self.start + context_length) if shared_prefix else None
        object.__setattr__(self, "encoder", encoder)  # no module of this one: it has no state, and peft would copy it
        with torch.no_grad():
            context = torch.zeros(1, context_length, tower.width, device=tower.device)
            self.text_channels = tower.encode(ids[:1], context, self.start).shape[-1]

    @property
    def ids(self) -> Tensor:
        """(K+1, S) token ids of placeholders and class names."""
        return self.fixed.ids

    def forward(self) -> Tensor:
        """(P, K+1, T) text embeddings as the tower gives them, "none" last."""
        prompts, classes = self.num_prompts, len(self.ids)
        if self.contexts.is_meta:  # where the tower, whose weights no checkpoint has, does not go
            return self.contexts.new_empty(prompts, classes, self.text_channels)
        if self.encoder is not None:
            return self.encoder(self.contexts)
        contexts = self.contexts.repeat_interleave(classes, 0)
        embeddings = self.tower.encode(self.ids.repeat(prompts, 1), contexts, self.start)
        return embeddings.unflatten(0, (prompts, classes))

    def encoded(self) -> Tensor:
        """``self()`` without a gradient; the tower runs only if the contexts are others than when it last did.

        A graph that is compiled, exported or captured is pure: it holds the text that there is when it is made.
        """
        contexts, fixed = self.contexts, self.fixed
        if torch.compiler.is_compiling() or contexts.is_meta or _is_captured(contexts):
            return self() if fixed.text is None else fixed.text
        if fixed.text is None or not _equal(contexts, fixed.source):
            # smp's predict() comes here inside inference mode, whose tensors could not be trained on afterwards.
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(contexts.device.type, enabled=False):
                fixed.text, fixed.source = self().clone(), contexts.clone()
        return fixed.text

    def _move_fixed(self, move: Move) -> None:
        super()._move_fixed(move)
        self.tower.move(move)
        if self.encoder is not None:
            self.encoder._apply(move)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.to(self.contexts.device)  # which may have been assigned from elsewhere


def _check_told_apart(tower: TextTower, names: Sequence[str], ids: Tensor) -> None:
    known: dict[tuple[int, ...], str] = {}
    for name, row in zip(names, ids.tolist(), strict=True):
        other = known.setdefault(tuple(row), name)
        if other != name:
            raise ValueError(
                f"class names '{other}' and '{name}' are one to the tokenizer of '{tower.name}', so text can not tell "
                "them apart; rename one"
            )


def _equal(contexts: Tensor, source: Tensor) -> bool:
    # Values, not versions: fused optimizers and changes of .data leave no trace in those. A GPU is waited for, once.
    alike = contexts.device == source.device and contexts.dtype == source.dtype
    return alike and torch.equal(contexts, source)


def _is_captured(tensor: Tensor) -> bool:
    """Whether a CUDA graph is being recorded, which can not wait for a comparison."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def _find_placeholders(tower: TextTower, ids: Tensor, length: int) -> int:
    """Where the placeholders start: behind a start token, or at once where the tokenizer has none."""
    # One placeholder more or fewer tells where they start and end: a first word can be another token than the next.
    counts = (0, length, length + 1)
    empty, placeholders, one_more = tower.tokenize([" ".join([PLACEHOLDER] * count) for count in counts])
    start = int((placeholders != empty).int().argmax())
    end = int((one_more != placeholders).int().argmax())
    if end - start != length or (ids[start:end] != placeholders[start:end]).any():
        raise ValueError(
            f"the tokenizer of '{tower.name}' does not read '{PLACEHOLDER}' as one token; pass ready embeddings with "
            "text_encoder='bank'"
        )
    return start
