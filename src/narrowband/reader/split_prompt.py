"""A prompt in three parts: head and question are read as text, the context between them as latents."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from narrowband.data.prompts import HEAD, examples_of, fit_prompt, named, tokenise
from narrowband.data.squad import Example
from narrowband.params import InputError, Prompt


class SplitPrompt(NamedTuple):
    """Token ids of everything before the context (including worked examples), of the context, and of question and cue.

    `truncated` says that the end of the context did not fit. The first `joint` tokens of `question` stand for the line break
    before "Question:", and maybe for the end of the context. The first `shared` tokens of `head` are the same in all prompts.
    """

    head: list[int]
    context: list[int]
    question: list[int]
    truncated: bool
    joint: int
    shared: int

    @property
    def ids(self) -> list[int]:
        """The whole prompt as text, as `encode_prompt` has it."""
        return self.head + self.context + self.question


class Contexts(NamedTuple):
    """Right-padded rows of heads and contexts: ids, which of them belong to the context, and the ids that all rows begin with.

    Padding comes last, so a causal model needs no mask for it.
    """

    ids: Int[Tensor, "batch seq"]
    inside: Bool[Tensor, "batch seq"]
    shared: tuple[int, ...]


def split_prompt(tokenizer: PreTrainedTokenizerBase, context: str, question: str, prompt: Prompt) -> SplitPrompt:
    """The tokens of a prompt in three parts; a token that spans context and question belongs to the question.

    Raises:
        InputError: nothing of the context is left, because question and cue fill `prompt.max_length` or it is empty.
    """
    whole = tokenise(tokenizer, context, question, prompt)
    ids, _, truncated, shared = fit_prompt(tokenizer, whole, len(context), prompt)
    start = len(examples_of(prompt)) + len(HEAD)
    bos = prompt.bos != "none" and tokenizer.bos_token_id is not None
    first = bos + sum(stop <= start for _, stop in whole.spans)
    end = start + len(context)
    after = [begin for begin, stop in whole.spans if stop > end]
    last = len(ids) - len(after)
    if last <= first:
        raise InputError(
            f"no token of the context fits beside a question of {len(ids) - last} tokens; give a longer context, raise "
            f"prompt.max_length {prompt.max_length} or shorten the question"
        )
    joint = sum(begin <= end for begin in after)
    return SplitPrompt(ids[:first], ids[first:last], ids[last:], truncated, joint, shared)


def split_prompts(tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example], prompt: Prompt) -> list[SplitPrompt]:
    """The prompts of `examples`, in order.

    Raises:
        InputError: see `split_prompt`; it names the question's id.
    """
    return list(named(examples, lambda example: split_prompt(tokenizer, example.context, example.question, prompt)))


def lay_contexts(prompts: Sequence[SplitPrompt], pad_id: int) -> Contexts:
    """Heads and contexts of `prompts` as the rows of a batch."""
    ids = [torch.tensor(one.head + one.context) for one in prompts]
    inside = [torch.arange(len(row)) >= len(one.head) for row, one in zip(ids, prompts, strict=True)]
    return Contexts(
        pad_sequence(ids, batch_first=True, padding_value=pad_id),
        pad_sequence(inside, batch_first=True),
        shared_tokens(prompts),
    )


def shared_tokens(prompts: Sequence[SplitPrompt]) -> tuple[int, ...]:
    """The first tokens that all of `prompts`, made with the same settings, have in common: those of the worked examples."""
    first = prompts[0]
    return tuple(first.head[: first.shared])
