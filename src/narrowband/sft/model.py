"""The one door to the base model: text in, exactly that text fed, in batches sorted by length, written down."""

from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from narrowband.params import InputError
from narrowband.sft.backend import Backend, Continuation, Sampling
from narrowband.sft.journal import Journal
from narrowband.sft.prompts import encode_exactly


class PlainModel:
    """A backend with its tokenizer; what it says goes to `journal`, `batch_size` prompts at a time."""

    def __init__(self, backend: Backend, tokenizer: PreTrainedTokenizerBase, journal: Journal, batch_size: int) -> None:
        self.backend = backend
        self.tokenizer = tokenizer
        self.journal = journal
        self.batch_size = batch_size

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt."""
        return [len(ids) for ids in encode_exactly(self.tokenizer, prompts)]

    def complete(self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> list[Continuation]:
        """One continuation a prompt, in the order of the prompts.

        Raises:
            InputError: a prompt's ids do not decode to the prompt.
        """
        rows = encode_exactly(self.tokenizer, prompts)
        said = self._in_batches(
            rows, lambda at: self.backend.complete([rows[i] for i in at], [seeds[i] for i in at], sampling)
        )
        return [Continuation(*one) for one in said]

    def margins(self, prompts: Sequence[str], good: str, bad: str) -> list[float]:
        """How much likelier `good` is than `bad` right after each prompt, as a difference of log-probabilities in nats.

        Raises:
            InputError: the two do not differ in their last token alone.
        """
        rows, others = (encode_exactly(self.tokenizer, [prompt + end for prompt in prompts]) for end in (good, bad))
        if any(row[:-1] != other[:-1] for row, other in zip(rows, others, strict=True)):
            raise InputError(
                f"the base model's tokenizer makes more than one token of the verdicts {good!r} and {bad!r}; use another model"
            )
        return self._in_batches(
            rows,
            lambda at: self.backend.margins(
                [rows[i][:-1] for i in at], [rows[i][-1] for i in at], [others[i][-1] for i in at]
            ),
        )

    def _in_batches(self, rows: Sequence[Sequence[int]], ask: Callable[[list[int]], list[Any]]) -> list[Any]:
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found: dict[int, Any] = {}
        for start in range(0, len(order), self.batch_size):
            at = order[start : start + self.batch_size]
            found |= zip(at, self.journal.recall(lambda at=at: ask(at)), strict=True)  # type: ignore[misc]
        return [found[i] for i in range(len(rows))]
