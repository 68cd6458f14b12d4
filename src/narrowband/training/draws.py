"""Batches that depend on the seed and the step alone, so that a resumed run sees what an undisturbed one would."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch

T = TypeVar("T")


class Draws(NamedTuple):
    """How batches are drawn: the random seed, and the items of a batch."""

    seed: int
    size: int

    def batch(self, items: Sequence[T], step: int) -> list[T]:
        """The items for `step`: a fresh permutation each epoch, of which an incomplete last batch is left out."""
        per_epoch = max(1, len(items) // self.size)
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(len(items), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch))
        return [items[i] for i in order[place * self.size : (place + 1) * self.size].tolist()]


def turn(share: float, step: int) -> tuple[bool, int]:
    """Whether `step` belongs to an evenly spread `share` of special steps, and how many steps of its kind came before."""
    before = math.floor(share * step)
    special = math.floor(share * (step + 1)) > before
    return special, before if special else step - before
