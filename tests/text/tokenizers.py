"""Small local stand-ins for the hub's tokenizers: their own classes and special tokens around a tiny vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from string import ascii_lowercase

from transformers import (
    BertTokenizer,
    GemmaTokenizer,
    NllbTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    T5Tokenizer,
    XLMRobertaTokenizer,
)

WORDS = ("the", "bright", "photo", "of", "one", "cat", "light", "box", "none")
"""The words of one token each. Others are spelled, single letters too: T5's own vocabulary has no "▁a"."""


def bert() -> PreTrainedTokenizerFast:
    """Lower-casing; [CLS] first and [SEP] last, padded with 0."""
    tokens = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [mark + letter for letter in ascii_lowercase for mark in ("", "##")]
    return BertTokenizer(vocab=_ids([*tokens, *letters, *WORDS]))


def bert_between_its_own_tokens() -> PreTrainedTokenizerFast:
    """The same with tokens for the start and the end of a text, for the mode that puts [CLS] behind the padding."""
    tokenizer = bert()
    tokenizer.add_special_tokens({"bos_token": "[unused0]", "eos_token": "[unused1]"})
    return tokenizer


def t5_padded_with_its_end() -> PreTrainedTokenizerFast:
    """No start token, one end token, which is the padding too."""
    return T5Tokenizer(vocab=_pieces("<pad>", "</s>", "<unk>"), pad_token="</s>", extra_ids=0)


def t5() -> PreTrainedTokenizerFast:
    """No start token, one end token, padded with 0."""
    return T5Tokenizer(vocab=_pieces("<pad>", "</s>", "<unk>"), extra_ids=0)


def gemma() -> PreTrainedTokenizerFast:
    """No start token, one end token, padded with 0. A text's first word is another token than the same word later."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens, merges = _merged("▁", first_word_too=True)
    return GemmaTokenizer(
        vocab=_ids([*special, *tokens]), merges=merges, add_bos_token=False, add_eos_token=True, padding_side="right"
    )


def xlm_roberta() -> PreTrainedTokenizerFast:
    """A start token 0 and an end token 2, padded with 1."""
    return XLMRobertaTokenizer(vocab=[*_pieces("<s>", "<pad>", "</s>", "<unk>"), ("<mask>", 0.0)])


def roberta() -> PreTrainedTokenizerFast:
    """The same of bytes. A text's first word is another token than the same word later."""
    tokens, merges = _merged("Ġ", first_word_too=True)
    return RobertaTokenizer(vocab=_ids(["<s>", "<pad>", "</s>", "<unk>", *tokens, "<mask>"]), merges=merges)


def nllb() -> PreTrainedTokenizerFast:
    """The language first and an end token last, padded with 1."""
    tokens, merges = _merged("▁", first_word_too=False)
    return NllbTokenizer(vocab=_ids(["<s>", "<pad>", "</s>", "<unk>", *tokens]), merges=merges)


def _ids(tokens: Iterable[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def _pieces(*special: str) -> list[tuple[str, float]]:
    """SentencePiece's unigrams with their scores: a word costs less than its letters."""
    pieces = {**dict.fromkeys(special, 0.0), **{f"▁{word}": -3.0 for word in WORDS}}
    return list((pieces | dict.fromkeys(("▁", *ascii_lowercase), -9.0)).items())


def _merged(space: str, *, first_word_too: bool) -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens and merges of a byte pair encoding in which a word's mark of the space before it belongs to the word."""
    words = [space + word for word in WORDS] + list(WORDS) * first_word_too
    merges = [(word[:end], word[end]) for word in words for end in range(1, len(word))]
    return [space, *ascii_lowercase, *(first + second for first, second in merges)], list(dict.fromkeys(merges))
