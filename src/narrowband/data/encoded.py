"""Encoded prompts: token ids and which of them pass through the codec, one prompt or very many."""

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple, overload

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class EncodedPrompt(NamedTuple):
    """Token ids of one prompt, whether each passes through the codec, and whether the context was truncated.

    The first `shared` tokens are the same in all prompts and keep their own embeddings.
    """

    ids: list[int]
    coded: list[bool]
    truncated: bool
    shared: int = 0


class EncodedPrompts(Sequence[EncodedPrompt]):
    """A sequence of prompts that takes five bytes a token; a list of them takes about forty."""

    def __init__(self, prompts: Iterable[EncodedPrompt]) -> None:
        self._ids, self._coded = array("i"), array("b")
        self._ends, self._truncated, self._shared = array("q", [0]), array("b"), array("i")
        for prompt in prompts:
            self._ids.extend(prompt.ids)
            self._coded.extend(prompt.coded)
            self._ends.append(len(self._ids))
            self._truncated.append(prompt.truncated)
            self._shared.append(prompt.shared)

    @classmethod
    def of(cls, prompts: Sequence[EncodedPrompt]) -> "EncodedPrompts":
        """`prompts` themselves if they are stored like this already."""
        return prompts if isinstance(prompts, EncodedPrompts) else cls(prompts)

    def __len__(self) -> int:
        return len(self._truncated)

    @overload
    def __getitem__(self, index: int) -> EncodedPrompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[EncodedPrompt]: ...
    def __getitem__(self, index: int | slice) -> EncodedPrompt | list[EncodedPrompt]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]
        tokens = slice(self._ends[index], self._ends[index + 1])
        coded = [bool(on) for on in self._coded[tokens]]
        return EncodedPrompt(
            self._ids[tokens].tolist(), coded, bool(self._truncated[index]), shared=self._shared[index]
        )

    @property
    def ids(self) -> Int[Tensor, " tokens"]:
        """The token ids of all prompts, one prompt after the other."""
        return torch.tensor(self._ids, dtype=torch.int32)

    @property
    def coded(self) -> Bool[Tensor, " tokens"]:
        """Which of `ids` pass through the codec."""
        return torch.tensor(self._coded, dtype=torch.bool)

    def with_ids(self, ids: Int[Tensor, " tokens"]) -> "EncodedPrompts":
        """The same prompts with other tokens."""
        other = EncodedPrompts(())
        other._coded, other._ends = self._coded, self._ends
        other._truncated, other._shared = self._truncated, self._shared
        other._ids = array("i", ids.int().numpy().tobytes())
        return other
