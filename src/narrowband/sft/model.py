"""The only access to the base model: exactly the given text goes in, in batches sorted by length, and replies are journalled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from narrowband.lm.plain_text import encode_plainly
from narrowband.lm.sampling import Sampling
from narrowband.params import InputError
from narrowband.sft.backend import Backend, Continuation
from narrowband.sft.journal import Journal
from narrowband.sft.pool import are_exact, encode_exactly


class Limits(NamedTuple):
    """Prompts per batch, and tokens per prompt, BOS included."""

    batch_size: int
    max_length: int


def require_one_token(good: str, bad: str, rows: Sequence[list[int]], others: Sequence[list[int]]) -> None:
    """Check that `rows`, which end in `good`, and `others`, which end in `bad`, differ in the last token alone.

    Raises:
        InputError: they don't.
    """
    if any(row[:-1] != other[:-1] for row, other in zip(rows, others, strict=True)):
        raise InputError(
            f"the base model's tokenizer splits {good!r} or {bad!r} into several tokens, so the critic of SFT records can't "
            "compare them; set data.sft_records to 0, or use another base model"
        )


@dataclass(frozen=True)
class PlainModel:
    """A backend with its tokenizer and journal; `bos` holds the id that goes before every prompt, if any does.

    `on_batch` is called after each batch with the number of prompts done and the number of prompts in the call.
    """

    backend: Backend
    tokenizer: PreTrainedTokenizerBase
    journal: Journal
    limits: Limits
    bos: tuple[int, ...] = ()
    on_batch: Callable[[int, int], None] = lambda done, total: None

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts: BOS if it was chosen, then exactly the text.

        Raises:
            InputError: the ids after BOS do not decode to the prompt.
        """
        return [[*self.bos, *ids] for ids in encode_exactly(self.tokenizer, prompts)]

    def are_exact(self, texts: Sequence[str]) -> list[bool]:
        """Of which texts the model would be fed exactly the text."""
        return are_exact(self.tokenizer, texts)

    def tokens_from(self, text: str, start: int) -> int:
        """How many tokens of a text hold characters from `start` on."""
        spans = encode_plainly(self.tokenizer, text, spans=True).offset_mapping
        return sum(end > start for _, end in spans)

    def complete(self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> list[Continuation]:
        """One continuation per prompt, in the order of the prompts.

        Raises:
            InputError: see `encode`.
        """
        rows = self.encode(prompts)
        said = self._in_batches(
            rows, lambda at: self.backend.complete([rows[i] for i in at], [seeds[i] for i in at], sampling)
        )
        return [Continuation(*one) for one in said]

    def margins(self, prompts: Sequence[str], good: str, bad: str) -> list[float]:
        """`log P(good) - log P(bad)` right after each prompt, in nats.

        Raises:
            InputError: for this tokenizer, `good` and `bad` differ in more than the last token.
        """
        rows, others = (self.encode([prompt + end for prompt in prompts]) for end in (good, bad))
        require_one_token(good, bad, rows, others)
        return self._in_batches(
            rows,
            lambda at: self.backend.margins(
                [rows[i][:-1] for i in at], [rows[i][-1] for i in at], [others[i][-1] for i in at]
            ),
        )

    def log_probs(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """For each row of token ids, fed as it is, the log-probability in nats of every token after the first."""
        return self._in_batches(rows, lambda at: self.backend.log_probs([rows[i] for i in at]))

    def _in_batches(self, rows: Sequence[Sequence[int]], ask: Callable[[list[int]], list[Any]]) -> list[Any]:
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found: dict[int, Any] = {}
        for start in range(0, len(order), self.limits.batch_size):
            at = order[start : start + self.limits.batch_size]
            found |= zip(at, self.journal.recall(lambda at=at: ask(at)), strict=True)  # type: ignore[misc]
            self.on_batch(len(found), len(rows))
        return [found[i] for i in range(len(rows))]
