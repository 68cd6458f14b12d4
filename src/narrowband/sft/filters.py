"""How completions are cut, and which records are too similar to another record or to the QA test split."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from unicodedata import category

from datasketch import MinHash, MinHashLSH
from rapidfuzz.distance import Indel

from narrowband.data.squad import Example
from narrowband.data.words import is_unspaced, words

BLANK_LINE = "\n\n"
CUES = ("\nQ:", "\nA:", "\nQuestion:", "\nAnswer:", "\nContext:", "\nTask:", "\nIs the answer")
"""What a model writes when it continues with another question, task or judgement."""

STOP_STRINGS = (BLANK_LINE, *CUES)
ROUGE_L = 0.7
"""Records with at least this ROUGE-L are near-duplicates (Wang et al. 2022, "Self-Instruct", arXiv:2212.10560)."""

OVERLAP = 8
"""A record must not share so long a run of words with the test split (see `length`): 8 words, or 16 Chinese characters."""

_RESIDUE = re.compile(
    r"(?:^|\s)(?:Q|A|Question|Answer|Context|Task|Instruction|Response|User|Assistant|Human|System):"
    r"|<\||\|>|</?s>|\[/?INST\]|###|```"
)
_HIDDEN = {"Cc", "Co", "Cs", "Cn"}
"""Unicode categories of characters that can't be shown: control, private use, surrogate, unassigned."""


def clean(completion: str) -> str:
    """The part of a completion before its first stop string, stripped."""
    for stop in STOP_STRINGS:
        completion = completion.split(stop, 1)[0]
    return completion.strip()


def ran_on(completion: str) -> bool:
    """Whether the model continued with another question, task or judgement."""
    return any(cue in completion for cue in CUES)


def has_residue(text: str) -> bool:
    """Whether delimiters, role words or special tokens are left in a text."""
    return bool(_RESIDUE.search(text))


def is_printable(text: str) -> bool:
    """Whether a text holds only line breaks and characters that can be shown, and none that stands for broken bytes (U+FFFD).

    Characters without a shape of their own that texts need, such as joiners and direction marks, can be shown.
    """
    return all(one == "\n" or (one != "\ufffd" and category(one) not in _HIDDEN) for one in text)


def length(some: Iterable[str]) -> float:
    """Number of `words`; a character of a script without spaces counts as half a word, as Chinese words have two on average."""
    return sum(0.5 if is_unspaced(word) else 1.0 for word in some)


def ngrams(sequence: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` words."""
    return [tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1)]


class Distinct:
    """The records kept so far; refuses near-duplicates of them.

    MinHash LSH over words finds similar records, with a low threshold; ROUGE-L (F1 over words) of `ROUGE_L` decides.
    """

    def __init__(self) -> None:
        # Texts of equal length at ROUGE-L 0.7 have a Jaccard similarity of 0.54; missing one is worse than checking one.
        self._index = MinHashLSH(threshold=0.4, num_perm=128, weights=(0.1, 0.9))
        self._words: dict[int, list[str]] = {}

    def add(self, text: str) -> bool:
        """Add a text unless it is a near-duplicate; returns whether it was added."""
        mine = words(text)
        sketch = MinHash(num_perm=128)
        sketch.update_batch([word.encode() for word in sorted(set(mine))])
        if any(rouge_l(mine, self._words[key]) >= ROUGE_L for key in self._index.query(sketch)):
            return False
        self._index.insert(len(self._words), sketch)
        self._words[len(self._words)] = mine
        return True


def rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words (Lin 2004), which is the normalised indel similarity."""
    return Indel.normalized_similarity(first, second)


class Contamination:
    """All runs of words of `length` `OVERLAP` in the QA test split; no record may contain one."""

    def __init__(self, examples: Iterable[Example]) -> None:
        self._runs = {
            run for example in examples for text in (example.context, example.question) for run in _runs(text)
        }

    def overlaps(self, text: str) -> bool:
        """Whether a text shares a run of words of `length` `OVERLAP` with the test split."""
        return not self._runs.isdisjoint(_runs(text))


def _runs(text: str) -> list[tuple[str, ...]]:
    """From each word on, the shortest run of words that is at least `OVERLAP` long."""
    said = words(text)
    lengths = [*accumulate((length([word]) for word in said), initial=0.0)]
    ends = [bisect_left(lengths, start + OVERLAP) for start in lengths]
    return [tuple(said[i:end]) for i, end in enumerate(ends) if end < len(lengths)]
