"""The form of answers: those that are empty, cut short, run on, or hold the right answer among other words."""

from collections.abc import Mapping, Sequence

from narrowband.data.squad import Example
from narrowband.evaluation.scoring import f1, normalize
from narrowband.lm.stop import SENTENCE_END, Reply

MISSED = 50.0
"""An answer that contains a gold answer but has a lower F1 than this counts as missed, because of its other words."""

ALIKE = 0.5
"""Share of the commonest prediction above which predictions have collapsed, if golds are at most half as alike."""


def answer_form(replies: Sequence[Reply], examples: Sequence[Example]) -> dict[str, float]:
    """Shares (0 to 1) of answers that are `empty`, `cut` by the limit on new tokens, and that `run_on`.

    An empty answer to an unanswerable question is right and not counted. An answer runs on if it continues after a sentence
    although no gold answer to its question does.
    """
    pairs = list(zip(replies, examples, strict=True))
    return {
        "empty": sum(is_empty(reply.text, example) for reply, example in pairs) / len(pairs),
        "cut": sum(reply.cut for reply in replies) / len(pairs),
        "run_on": sum(_runs_on(reply.text, example) for reply, example in pairs) / len(pairs),
    }


def is_empty(text: str, example: Example) -> bool:
    """Whether the answer is empty although the question has an answer."""
    return not text and bool(example.answers)


def is_buried(text: str, example: Example) -> bool:
    """Whether `text` contains a gold answer word for word, among so many other words that it counts as missed."""
    golds = [gold for gold in example.golds if normalize(gold)]
    contained = any(f" {normalize(gold, text)} " in f" {normalize(text, gold)} " for gold in golds)
    return contained and max(f1(text, gold) for gold in golds) < MISSED


def faults(predictions: Mapping[str, str], examples: Sequence[Example]) -> tuple[float, float]:
    """The shares (0 to 1) of answers that are empty, and of those that are buried."""
    pairs = [(predictions[example.id], example) for example in examples]
    return sum(is_empty(*pair) for pair in pairs) / len(pairs), sum(is_buried(*pair) for pair in pairs) / len(pairs)


def _runs_on(text: str, example: Example) -> bool:
    return bool(SENTENCE_END.search(text)) and not any(SENTENCE_END.search(gold) for gold in example.golds)
