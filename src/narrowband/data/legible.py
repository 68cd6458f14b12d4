"""Whether a tokenizer can write the prompts and answers of a data set."""

from collections.abc import Iterable, Sequence
from itertools import islice

from transformers import PreTrainedTokenizerBase

from narrowband.data.prompts import encode_answer
from narrowband.data.squad import Example
from narrowband.lm.plain_text import encode_plainly
from narrowband.params import InputError
from narrowband.runtime.entry import console

LOOKED_AT = 100
"""Questions of each split that are looked at."""

NOTED, MOST = 0.01, 0.5
"""Shares of unknown characters above which they are mentioned, and refused."""


def require_legible(tokenizer: PreTrainedTokenizerBase, splits: Iterable[Sequence[Example]]) -> None:
    """Check what the tokenizer makes of the first questions of each split; prints the share of characters it can't write.

    Raises:
        InputError: it drops line breaks, has no tokens for most characters, or joins an answer with the cue before it.
    """
    require_line_breaks(tokenizer)
    examples = [example for split in splits for example in islice(split, LOOKED_AT)]
    share = unknown_share(tokenizer, examples)
    said = f"the tokenizer of this base model has no tokens for {share:.1%} of the characters of questions and answers"
    if share > MOST:
        raise InputError(f"{said}; choose a base model that was trained on their language")
    if share > NOTED:
        console.print(f"{said}: they are lost before any codec")
    for example in examples:
        encode_answer(tokenizer, example.golds[0])


def require_line_breaks(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that drops line breaks, also at the end of a text: no answer would end, or learn to."""
    ids = tokenizer("a\nb\n", add_special_tokens=False).input_ids
    if str(tokenizer.decode(ids, skip_special_tokens=True)).count("\n") != len("\n\n"):
        raise InputError(
            "the tokenizer of this base model drops line breaks, which end each line of a prompt and each answer; choose a "
            "base model whose tokenizer keeps them"
        )


def unknown_share(tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example]) -> float:
    """The share of characters of contexts, questions and answers that become unknown tokens.

    It counts characters, because some tokenizers write a whole unknown sentence as one such token.
    """
    texts = [*{text: None for one in examples for text in (one.context, one.question, *one.golds) if text}]
    if tokenizer.unk_token_id is None or not texts:
        return 0.0
    encoded = encode_plainly(tokenizer, texts, spans=True)
    unknown = sum(
        stop - start
        for ids, spans in zip(encoded.input_ids, encoded.offset_mapping, strict=True)
        for id_, (start, stop) in zip(ids, spans, strict=True)
        if id_ == tokenizer.unk_token_id
    )
    return unknown / sum(map(len, texts))
