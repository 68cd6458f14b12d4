"""What writes and judges: the contract of a generation backend, and the one on top of transformers."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch

from narrowband.data.prompts import EncodedPrompt, collate
from narrowband.lm.frozen import FrozenLM

Finish = Literal["eos", "stop", "length"]


class Sampling(NamedTuple):
    """How a continuation is drawn: 0 is greedy; new tokens at the most; texts that end it."""

    temperature: float
    max_new_tokens: int
    stop_strings: tuple[str, ...]


class Continuation(NamedTuple):
    """What the model wrote, its stop string included, and why it ended: end of text, a stop string, or the limit."""

    text: str
    finish: Finish


class Backend(Protocol):
    """A base model that continues token ids, and that can say which of two tokens it thinks likelier."""

    def complete(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> list[Continuation]:
        """One continuation a prompt; with its own seed each, whatever else is in the batch."""

    def margins(self, prompts: Sequence[Sequence[int]], good: Sequence[int], bad: Sequence[int]) -> list[float]:
        """`log P(good[i]) - log P(bad[i])` of the token after prompt `i`, in nats."""


class TransformersBackend:
    """The frozen base model on this machine, a left-padded batch at a time."""

    def __init__(self, lm: FrozenLM) -> None:
        self.lm = lm

    def complete(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> list[Continuation]:
        """See `Backend.complete`."""
        batch = collate([_plain(ids) for ids in prompts], self.lm.pad_id)
        rows = self.lm.sample(
            batch.ids, batch.mask, sampling.max_new_tokens, sampling.temperature, seeds, sampling.stop_strings
        )
        return [self._read(row, sampling.stop_strings) for row in rows.tolist()]

    @torch.no_grad()
    def margins(self, prompts: Sequence[Sequence[int]], good: Sequence[int], bad: Sequence[int]) -> list[float]:
        """See `Backend.margins`; a difference of logits is a difference of log-probabilities."""
        batch = collate([_plain(ids) for ids in prompts], self.lm.pad_id)
        logits = self.lm.logits(self.lm.embed(batch.ids), batch.mask.to(self.lm.device), last=1)[:, 0]
        rows = range(len(prompts))
        return (logits[rows, list(good)] - logits[rows, list(bad)]).tolist()

    def _read(self, row: list[int], stop_strings: Sequence[str]) -> Continuation:
        """Text and finish of a row of new tokens, which ends with end of text or padding, or at the limit."""
        ends = {self.lm.tokenizer.eos_token_id, self.lm.pad_id}
        end = next((place for place, token in enumerate(row) if token in ends), len(row))
        text = str(self.lm.tokenizer.decode(row[:end], clean_up_tokenization_spaces=False))
        if any(stop in text for stop in stop_strings):
            return Continuation(text, "stop")
        if end == len(row):
            return Continuation(text, "length")
        # Padding without a stop string in the text: one that began with the prompt's last characters.
        return Continuation(text, "eos" if row[end] == self.lm.tokenizer.eos_token_id else "stop")


def _plain(ids: Sequence[int]) -> EncodedPrompt:
    return EncodedPrompt(list(ids), [False] * len(ids), truncated=False)
