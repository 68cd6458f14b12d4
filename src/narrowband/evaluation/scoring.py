"""Official SQuAD scoring (https://rajpurkar.github.io/SQuAD-explorer/, evaluate-v1.1 and -v2.0): exact match and F1."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from narrowband.data.squad import Example
from narrowband.data.words import is_latin, without_punctuation, words_and_symbols
from narrowband.params import InputError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


Predictions = Mapping[str, str]
"""Answers by question id."""


class Score(NamedTuple):
    """Exact match and F1 of one question, each 0 to 100 and each the best over the gold answers."""

    em: float
    f1: float


@dataclass(frozen=True)
class Scored:
    """Predictions by question id, and the score of each question."""

    predictions: Predictions
    scores: list[Score]

    @property
    def f1(self) -> float:
        """Mean F1, 0 to 100."""
        return sum(score.f1 for score in self.scores) / len(self.scores)

    @property
    def em(self) -> float:
        """Mean exact match, 0 to 100."""
        return sum(score.em for score in self.scores) / len(self.scores)


def normalize(text: str, *others: str) -> str:
    """Lower case without ASCII punctuation, articles and extra white space, composed characters in Unicode's form C.

    The official rule takes a Chinese sentence for one word and leaves its full stop on. So if the text, or one of the `others`
    that it is compared with, is not in the Latin script, it loses all punctuation and is split into words and symbols.
    """
    lower = unicodedata.normalize("NFC", text).lower()
    official = all(map(is_latin, (text, *others)))
    plain = lower.translate(_PUNCTUATION) if official else " ".join(words_and_symbols(without_punctuation(lower)))
    return " ".join(_ARTICLES.sub(" ", plain).split())


def f1(prediction: str, gold: str) -> float:
    """F1 of the multisets of words, 0 to 100.

    If both texts normalise to nothing, F1 is 100; if only one does, 0: the rule of SQuAD v2.0 and of torchmetrics. The v1.1
    script gives 0 in both cases, although it counts the former as an exact match.
    """
    predicted, wanted = normalize(prediction, gold).split(), normalize(gold, prediction).split()
    if not predicted or not wanted:
        return 100.0 * (predicted == wanted)
    shared = (Counter(predicted) & Counter(wanted)).total()
    return 200 * shared / (len(predicted) + len(wanted))


def score(prediction: str, golds: Sequence[str]) -> Score:
    """Exact match and F1 of a prediction, each the best over `golds`."""
    em = max(100.0 * (normalize(prediction, gold) == normalize(gold, prediction)) for gold in golds)
    return Score(em, max(f1(prediction, gold) for gold in golds))


def score_all(predictions: Predictions, examples: Sequence[Example]) -> list[Score]:
    """A score for each example, in order; a question without a prediction scores 0.

    If there are unanswerable questions, the rules of v2.0 apply: their right answer is the empty one, and golds that normalise
    to nothing are ignored.

    Raises:
        InputError: there is nothing to score.
    """
    if not examples:
        raise InputError("there is no question to score; raise data.test")
    golds = [example.golds for example in examples]
    if any(not example.answers for example in examples):
        golds = [[gold for gold in one if normalize(gold)] or [""] for one in golds]
    missing = Score(0.0, 0.0)
    return [
        score(predictions[e.id], one) if e.id in predictions else missing
        for e, one in zip(examples, golds, strict=True)
    ]


def agreements(predictions: Predictions, reference: Predictions) -> list[float]:
    """F1 (0 to 100) of each answer with another system's answer (the uncompressed model's) as the gold one."""
    return [f1(predictions[id_], text) for id_, text in reference.items()]


def agreement(predictions: Predictions, reference: Predictions) -> float:
    """The mean of `agreements`."""
    return sum(agreements(predictions, reference)) / len(reference)
