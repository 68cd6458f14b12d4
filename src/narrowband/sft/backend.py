"""What every generation backend can do (continue, compare, score), and the backend that runs on transformers."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch

from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import collate
from narrowband.lm.bos import token_log_probs
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.sampling import sample

Finish = Literal["eos", "stop", "length"]


class Sampling(NamedTuple):
    """How continuations are drawn: temperature (0 is greedy), maximum new tokens, and strings that end one."""

    temperature: float
    max_new_tokens: int
    stop_strings: tuple[str, ...]


class Continuation(NamedTuple):
    """What the model wrote, stop string included, and why it stopped: EOS, stop string or token limit."""

    text: str
    finish: Finish


class Backend(Protocol):
    """A base model that continues token ids and gives log-probabilities."""

    def complete(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> list[Continuation]:
        """One continuation per prompt; it depends on its own prompt and seed alone, not on the rest of the batch."""

    def margins(self, prompts: Sequence[Sequence[int]], good: Sequence[int], bad: Sequence[int]) -> list[float]:
        """`log P(good[i]) - log P(bad[i])` of the token after prompt `i`, in nats."""

    def log_probs(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """For each row, the log-probability in nats of every token after the first."""


class TransformersBackend:
    """The frozen base model on this machine, fed one left-padded batch at a time."""

    def __init__(self, lm: FrozenLM) -> None:
        self.lm = lm

    def complete(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> list[Continuation]:
        """See `Backend.complete`."""
        batch = collate([_plain(ids) for ids in prompts], self.lm.pad_id)
        rows = sample(
            self.lm, batch.ids, batch.mask, sampling.max_new_tokens, sampling.temperature, seeds, sampling.stop_strings
        )
        return [self._read(row, sampling.stop_strings) for row in rows.tolist()]

    @torch.no_grad()
    def margins(self, prompts: Sequence[Sequence[int]], good: Sequence[int], bad: Sequence[int]) -> list[float]:
        """See `Backend.margins`; a difference of logits is a difference of log-probabilities."""
        batch = collate([_plain(ids) for ids in prompts], self.lm.pad_id)
        logits = self.lm.logits(self.lm.embed(batch.ids), batch.mask.to(self.lm.device), last=1)[:, 0]
        rows = range(len(prompts))
        return (logits[rows, list(good)] - logits[rows, list(bad)]).tolist()

    def log_probs(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Backend.log_probs`; one row at a time, as a batch's logits over a large vocabulary fill the memory."""
        return [token_log_probs(self.lm, ids) for ids in rows]

    def _read(self, row: list[int], stop_strings: Sequence[str]) -> Continuation:
        """Text of a row of new tokens, and whether EOS, a stop string or the limit ended it."""
        ends = {self.lm.tokenizer.eos_token_id, self.lm.pad_id}
        end = next((place for place, token in enumerate(row) if token in ends), len(row))
        text = str(self.lm.tokenizer.decode(row[:end], clean_up_tokenization_spaces=False))
        if any(stop in text for stop in stop_strings):
            return Continuation(text, "stop")
        return Continuation(text, "length" if end == len(row) else "eos")


def _plain(ids: Sequence[int]) -> EncodedPrompt:
    return EncodedPrompt(list(ids), [False] * len(ids), truncated=False)
