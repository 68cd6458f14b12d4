"""Where an answer ends: a rule to cut text by, and the same rule as a stopping criterion of generation."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from narrowband.params import Stop

SENTENCE_END = re.compile(r"(?<=\w{4}[.!?])\s+|(?<=[؟۔।])\s+|(?<=[。！？])\s*(?=\w)")
"""The gap between two sentences, of no width in Chinese and Japanese.

Before a Latin full stop the word must have four letters, so that "St. Louis" is not split.
"""

ENDS = {"line": re.compile(r"\n|Question:"), "sentence": re.compile(rf"\n|Question:|{SENTENCE_END.pattern}")}
"""What ends an answer, after its leading white space, by `generation.stop`."""


class Reply(NamedTuple):
    """The stripped text of an answer, and whether the limit on new tokens cut it before it had ended."""

    text: str
    cut: bool


def until_end(text: str, stop: Stop) -> tuple[str, bool]:
    """`text` without white space around it, up to where the answer ends; whether that end was reached."""
    text = text.lstrip()
    end = ENDS[stop].search(text)
    return (text[: end.start()].rstrip(), True) if end else (text.rstrip(), False)


class TextEnd(StoppingCriteria):
    """Stops a row as soon as the text after its first `skipped` tokens has ended.

    transformers' own criterion for stop strings scans the vocabulary at each call: 9 s at 262,144 tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, has_ended: Callable[[str], bool], skipped: int) -> None:
        self.tokenizer, self.has_ended, self.skipped = tokenizer, has_ended, skipped
        self.ended: set[int] = set()

    @classmethod
    def of_answer(cls, tokenizer: PreTrainedTokenizerBase, stop: Stop, skipped: int) -> "TextEnd":
        """Stops a row at the end of its answer."""
        return cls(tokenizer, lambda text: until_end(text, stop)[1], skipped)

    @classmethod
    def at_strings(cls, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str], skipped: int) -> "TextEnd":
        """Stops a row at any of `strings`."""
        return cls(tokenizer, lambda text: any(string in text for string in strings), skipped)

    def __call__(
        self, input_ids: Int[Tensor, "batch seq"], scores: Float[Tensor, "batch vocab"] | None, **kwargs: object
    ) -> Bool[Tensor, " batch"]:
        """Which rows have ended; rows that ended earlier are not decoded again."""
        going = [row for row in range(len(input_ids)) if row not in self.ended]
        texts = decode_rows(self.tokenizer, input_ids[going, self.skipped :])
        self.ended.update(row for row, text in zip(going, texts, strict=True) if self.has_ended(text))
        return torch.tensor([row in self.ended for row in range(len(input_ids))], device=input_ids.device)


def decode_rows(tokenizer: PreTrainedTokenizerBase, tokens: Int[Tensor, "batch new"]) -> list[str]:
    """The text of each row, special tokens left out."""
    return tokenizer.batch_decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def decode_after(tokenizer: PreTrainedTokenizerBase, before: Sequence[int], ids: Sequence[int]) -> str:
    """The text of `ids` behind the ids `before`, special tokens included; alone, some tokenizers drop a space before it."""
    known, whole = (
        str(tokenizer.decode(row, clean_up_tokenization_spaces=False)) for row in (list(before), [*before, *ids])
    )
    return whole[len(known) :]
