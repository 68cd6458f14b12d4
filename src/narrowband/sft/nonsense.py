"""Detects completions that do not answer their instruction, from their words alone."""

from collections import Counter
from collections.abc import Sequence

from narrowband.data.prompts import ANCHOR
from narrowband.data.words import words
from narrowband.sft.backend import Continuation
from narrowband.sft.filters import clean, has_residue, is_printable, length, ngrams
from narrowband.sft.pool import FewShotExample

COMMON = 3
"""A word in at least this many examples of the pool (an article, "what", "sentence") says nothing about a topic."""


class Nonsense:
    """Finds faults in completions; the few-shot `pool` shows which words are too common to indicate a topic."""

    def __init__(self, pool: Sequence[FewShotExample]) -> None:
        spread = Counter(word for example in pool for word in set(_words(example)))
        self._common = {word for word, count in spread.items() if count >= COMMON and not word.isdigit()}

    def fault(self, said: Continuation, instruction: str, shown: Sequence[FewShotExample]) -> str | None:
        """Why a completion is no response, or None; `shown` are the examples in its prompt.

        In this order: `length_limit`; `empty`; `delimiter`; `unprintable`; `repetition` (fewer than 60% of its three-word
        sequences differ); `echo` (see `_is_echo`); `example_answer` (an example's answer, however short); `example_topic`
        (at least two of the words that it adds, by `length`, and at least half of them are those of one example).

        Three characters in a row tell repetition in Chinese as well as three words do in English.
        """
        response = clean(said.text)
        if said.finish == "length":
            return "length_limit"
        if not words(response):
            return "empty"
        if has_residue(response):
            return "delimiter"
        if not is_printable(response):
            return "unprintable"
        triples = ngrams(words(response), 3)
        if len(set(triples)) < 0.6 * len(triples):
            return "repetition"
        if _is_echo(response, instruction):
            return "echo"
        return self._borrowed(response, instruction, shown)

    def _borrowed(self, response: str, instruction: str, shown: Sequence[FewShotExample]) -> str | None:
        added = self._topic(response) - set(words(instruction))
        for example in shown:
            if words(response) == words(example.completion) or (added and added == self._topic(example.completion)):
                return "example_answer"
            same = length(added & set(_words(example)))
            if same >= 2 and 2 * same >= length(added):
                return "example_topic"
        return None

    def _topic(self, text: str) -> set[str]:
        return set(words(text)) - self._common


def _words(example: FewShotExample) -> list[str]:
    return [*words(example.instruction), *words(example.completion)]


def _is_echo(response: str, instruction: str) -> bool:
    """Whether a response begins with its instruction or is a part of it; a number alone may be an answer.

    Of an instruction with a passage, which answers are copied from, only the question counts.
    """
    asked = instruction.removesuffix(ANCHOR).rsplit("\n", 1)[-1]
    said, given = words(response), words(asked)
    if response.startswith(instruction) or said[: len(given)] == given:
        return True
    return tuple(said) in ngrams(given, len(said)) and not (len(said) == 1 and said[0].isdigit())
