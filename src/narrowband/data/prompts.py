"""The question-answering prompt: its text, its tokens, and which tokens pass through the codec."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from narrowband.data.encoded import EncodedPrompt, EncodedPrompts
from narrowband.data.squad import Example
from narrowband.lm.plain_text import encode_plainly
from narrowband.lm.rows import left_padded
from narrowband.params import InputError, Prompt
from narrowband.runtime.entry import console
from narrowband.runtime.parameters import shown

Encoded = TypeVar("Encoded")

HEAD = "Context: "
ANCHOR = "\nAnswer:"
LONG_QUESTION = 4
"""A question certainly fits if `prompt.max_length` is at least this many times its length in bytes."""


class SettledPrompt(Prompt):
    """`prompt` of params.yaml with `bos` decided, and the text of the worked examples that stand before each question."""

    examples: str = ""


class Batch(NamedTuple):
    """Left-padded rows: ids, mask of real tokens, mask of coded tokens, and the ids that all rows begin with."""

    ids: Int[Tensor, "batch seq"]
    mask: Bool[Tensor, "batch seq"]
    coded: Bool[Tensor, "batch seq"]
    shared: tuple[int, ...]


class Tokenised(NamedTuple):
    """The text of a whole prompt, its tokens without BOS, and the characters that each of them stands for."""

    text: str
    ids: list[int]
    spans: list[tuple[int, int]]


def qa_prompt(context: str, question: str) -> str:
    """The prompt, up to the "Answer:" cue. The answer follows after one space and ends with a line break."""
    return f"{HEAD}{context}\nQuestion: {question}{ANCHOR}"


def worked_examples(examples: Iterable[Example]) -> str:
    """The text of questions with their first gold answers, as it stands before another question."""
    return "".join(f"{qa_prompt(one.context, one.question)} {one.golds[0]}\n\n" for one in examples)


def examples_of(prompt: Prompt) -> str:
    """The text of the worked examples; empty for a section of params.yaml, which does not have them yet."""
    return prompt.examples if isinstance(prompt, SettledPrompt) else ""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, context: str, question: str, prompt: Prompt) -> EncodedPrompt:
    """Tokens of a prompt; `prompt` says whether BOS, "Context:", the "Answer:" cue and examples pass through the codec.

    "Context:" is the question's own if the examples before it are passed as text, otherwise that of the first example. A prompt
    longer than `prompt.max_length` loses the end of its context, never its examples, question or cue. See `encode_plainly`
    for text that looks like a special token.

    Raises:
        InputError: examples, question and cue alone are longer than `prompt.max_length`.
    """
    return fit_prompt(tokenizer, tokenise(tokenizer, context, question, prompt), len(context), prompt)


def tokenise(tokenizer: PreTrainedTokenizerBase, context: str, question: str, prompt: Prompt) -> Tokenised:
    """All tokens of a prompt, however long it is."""
    text = examples_of(prompt) + qa_prompt(context, question)
    encoded = encode_plainly(tokenizer, text, spans=True)
    return Tokenised(text, list(encoded["input_ids"]), list(encoded["offset_mapping"]))


def fit_prompt(tokenizer: PreTrainedTokenizerBase, whole: Tokenised, length: int, prompt: Prompt) -> EncodedPrompt:
    """What is kept of `whole`, whose context has `length` characters; see `encode_prompt`."""
    before = examples_of(prompt)
    head = len(before) + len(HEAD)
    starts, ends = zip(*whole.spans, strict=True)
    ids, coded = [*whole.ids], _coded(whole, prompt)
    bos = [] if prompt.bos == "none" or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    excess = len(bos) + len(ids) - prompt.max_length
    if excess > 0:
        first = sum(start < head for start in starts)
        end = sum(stop <= head + length for stop in ends)
        if excess > end - first:
            what = f"{prompt.shots} examples and a question" if before else "a question"
            fewer = "raise it, lower prompt.shots" if before else "raise it"
            raise InputError(
                f"prompt.max_length {prompt.max_length} leaves no room for {what} of {len(ids) - end + first} tokens; "
                f"{fewer} or shorten the question"
            )
        del ids[end - excess : end], coded[end - excess : end]
    constant = len(bos) + sum(start < len(before) for start in starts)
    shared = constant if before and prompt.shots_pass == "text" else 0
    return EncodedPrompt(bos + ids, [prompt.bos == "codec"] * len(bos) + coded, excess > 0, shared)


def _coded(whole: Tokenised, prompt: Prompt) -> list[bool]:
    """Which tokens pass through the codec."""
    first = len(examples_of(prompt)) if prompt.shots_pass == "text" else 0
    after_head = 0 if prompt.prefix == "codec" else first + len(HEAD)
    anchor = len(whole.text) - (0 if prompt.anchor == "codec" else len(ANCHOR))
    return [start >= first and stop > after_head and start < anchor for start, stop in whole.spans]


def require_texts(context: str, question: str) -> None:
    """Refuse a passage or a question without any text."""
    if not context.strip() or not question.strip():
        raise InputError("--context and --question must hold text; give a passage and a question about it")


def encode_prompts(tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example], prompt: Prompt) -> EncodedPrompts:
    """The prompts of `examples`, in order.

    Raises:
        InputError: see `encode_prompt`; it names the question's id.
    """
    return EncodedPrompts(stream_prompts(tokenizer, examples, prompt))


def stream_prompts(
    tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example], prompt: Prompt
) -> Iterator[EncodedPrompt]:
    """As `encode_prompts`, but lazily."""
    return named(examples, lambda example: encode_prompt(tokenizer, example.context, example.question, prompt))


def named(examples: Iterable[Example], encode: Callable[[Example], Encoded]) -> Iterator[Encoded]:
    """What `encode` makes of each of `examples`; its InputErrors begin with the question's id."""
    for example in examples:
        try:
            yield encode(example)
        except InputError as error:
            raise InputError(f"question {example.id}: {error}") from None


def check_questions(tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example], prompt: Prompt) -> None:
    """Check that the question of each of `examples` fits into a prompt; only long ones are encoded.

    Raises:
        InputError: one does not; it names the question's id.
    """
    examples_length = len(examples_of(prompt).encode())
    long = (
        one for one in examples if LONG_QUESTION * (len(one.question.encode()) + examples_length) > prompt.max_length
    )
    for _ in stream_prompts(tokenizer, (replace(one, context="") for one in long), prompt):
        pass


def truncated_share(prompts: Sequence[EncodedPrompt]) -> float:
    """The share (0 to 1) of `prompts` whose context was truncated; 0 if there are none."""
    return sum(prompt.truncated for prompt in prompts) / max(1, len(prompts))


def say_truncated(share: float, prompt: Prompt) -> None:
    """Print the `share` of prompts that were truncated, unless it is 0."""
    if share:
        console.print(
            f"{share:.2%} of prompts lost the end of their context: prompt.max_length is {prompt.max_length} tokens"
        )


def encode_answer(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
    """Tokens of an answer as the base model should write it: a space first, a line break at the end.

    An empty one is EOS, if there is one, because white space before an answer is skipped and so can't end it. Any other answer is
    tokenised together with the cue, because some tokenizers put an extra space in front of a text.

    Raises:
        InputError: a token holds characters of both.
    """
    if not answer and tokenizer.eos_token_id is not None:
        return [int(tokenizer.eos_token_id)]
    texts = [ANCHOR, f"{ANCHOR} {answer}\n"]
    cue, whole = encode_plainly(tokenizer, texts).input_ids
    if whole[: len(cue)] != cue:
        raise InputError(
            f'the tokenizer of this base model joins the end of "{ANCHOR.strip()}" with the beginning of the answer '
            f"{shown(answer)}, so that the answer can't follow a prompt; choose a base model whose tokenizer splits text at "
            "spaces"
        )
    ids: list[int] = whole[len(cue) :]
    return ids


def collate(prompts: Sequence[EncodedPrompt], pad_id: int, answers: Sequence[Sequence[int]] | None = None) -> Batch:
    """Left-pad prompts; if `answers` are given, each prompt is followed by its answer's tokens, which are never coded."""
    tails = answers or [[]] * len(prompts)
    rows = [(one.ids + list(tail), one.coded + [False] * len(tail)) for one, tail in zip(prompts, tails, strict=True)]
    ids, mask = left_padded([torch.tensor(row, dtype=torch.long) for row, _ in rows], pad_id)
    coded, _ = left_padded([torch.tensor(row, dtype=torch.bool) for _, row in rows])
    return Batch(ids, mask, coded, _shared(prompts))


def _shared(prompts: Sequence[EncodedPrompt]) -> tuple[int, ...]:
    """The shared first ids of all `prompts`; empty if they differ, as in a mix of questions and SFT records."""
    length = min(prompt.shared for prompt in prompts)
    beginnings = {tuple(prompt.ids[:length]) for prompt in prompts}
    return beginnings.pop() if len(beginnings) == 1 else ()


def coded_counts(prompts: Sequence[EncodedPrompt]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """The distinct coded tokens of `prompts` in ascending order, and how often each occurs."""
    stored = EncodedPrompts.of(prompts)
    tokens, counts = stored.ids[stored.coded].long().unique(return_counts=True)
    return tokens, counts
