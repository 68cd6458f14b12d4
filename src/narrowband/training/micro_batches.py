"""Splits a batch into parts whose losses add up to that of the whole, by process and by what memory allows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch

from narrowband.codec.token_windows import embedded
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import coded_counts
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError
from narrowband.runtime import distributed
from narrowband.training.loop import StepLoss
from narrowband.training.losses import Reconstruction

T = TypeVar("T")
STATES_OF = 4
"""Prompts whose states are computed at a time for the mean square of a whole batch."""


@dataclass(frozen=True)
class Part:
    """One of `count` parts, near-equal and in order, that a batch is cut into."""

    index: int = 0
    count: int = 1

    def of(self, rows: Sequence[T]) -> Sequence[T]:
        """The rows of this part."""
        return rows[self.index * len(rows) // self.count : (self.index + 1) * len(rows) // self.count]


WHOLE = Part()


@runtime_checkable
class PhaseLoss(Protocol):
    """The loss of a step of a phase, or of a part of its batch."""

    def __call__(self, step: int, part: Part = WHOLE) -> StepLoss:
        """What `part` adds to the loss of the batch of `step`."""


def own_parts(rows: int, micro_batch: int) -> Sequence[Part]:
    """The parts of a batch of `rows` that this process computes, of at most `micro_batch` rows each (0: no limit).

    Raises:
        InputError: the batch can't be shared evenly among the processes.
    """
    count = distributed.state().num_processes
    if rows % count:
        raise InputError(
            f"a batch of {rows} can't be shared evenly among {count} processes; choose batch_size as a multiple of {count}, "
            "and no more than there are training questions"
        )
    each = rows // count
    parts = count * -(-each // (micro_batch or each))
    return distributed.own([Part(index, parts) for index in range(parts)])


def in_batch(lm: FrozenLM, pair: Reconstruction, prompts: Sequence[EncodedPrompt]) -> Reconstruction:
    """`pair` with its share of the coded tokens of the whole batch (of `prompts`), and the mean square of these tokens."""
    tokens, counts = coded_counts(prompts)
    whole = int(counts.sum())
    share = (len(pair.original) if pair.counts is None else int(pair.counts.sum())) / whole
    if share == 1:
        return pair
    if lm.sender_blocks:
        sums = [states[on].square().mean(-1).sum() for states, on in embedded(lm, prompts, STATES_OF)]
        return pair._replace(share=share, mean_square=torch.stack(sums).sum() / whole)
    squares = lm.embed(tokens).square().mean(-1)
    return pair._replace(share=share, mean_square=(squares * counts.to(lm.device)).sum() / whole)
