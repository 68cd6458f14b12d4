"""What a completion is cut to, and what is no record: filler, near-duplicates, and what the QA test split holds."""

import re
from collections.abc import Iterable, Sequence

from datasketch import MinHash, MinHashLSH
from rapidfuzz.distance import Indel

from narrowband.data.squad import Example
from narrowband.sft.backend import Continuation

BLANK_LINE = "\n\n"
CUES = ("\nQ:", "\nA:", "\nQuestion:", "\nAnswer:", "\nContext:", "\nTask:", "\nIs the answer")
"""How a run-on into another question, task or judgement begins."""

STOP_STRINGS = (BLANK_LINE, *CUES)
ROUGE_L = 0.7
"""Two records at least this alike are near-duplicates (Wang et al. 2022, "Self-Instruct", arXiv:2212.10560)."""

OVERLAP = 8
"""Words in a row that a record must not share with the test split."""

_RESIDUE = re.compile(
    r"(?:^|\s)(?:Q|A|Question|Answer|Context|Task|Instruction|Response|User|Assistant|Human|System):"
    r"|<\||\|>|</?s>|\[/?INST\]|###|```"
)


def clean(completion: str) -> str:
    """The response in a raw completion: what stands before the first stop string, stripped."""
    for stop in STOP_STRINGS:
        completion = completion.split(stop, 1)[0]
    return completion.strip()


def ran_on(completion: str) -> bool:
    """Whether the model went on into another question, task or judgement."""
    return any(cue in completion for cue in CUES)


def has_residue(text: str) -> bool:
    """Whether delimiters, role words or special tokens are left in a text."""
    return bool(_RESIDUE.search(text))


def fault(said: Continuation, instruction: str, shown: Sequence[str]) -> str | None:
    """Why a completion is no response, if it is none; `shown` are the completions of the prompt's own examples.

    `length_limit`, `empty`, `delimiter`, `unprintable`, `repetition` (of its three-word sequences fewer than 60% differ)
    or `echo` (of the instruction, or of an example of four words or more).
    """
    response = clean(said.text)
    if said.finish == "length":
        return "length_limit"
    if not words(response):
        return "empty"
    if has_residue(response):
        return "delimiter"
    if not all(character.isprintable() and character != "\ufffd" for character in response.replace("\n", " ")):
        return "unprintable"
    triples = ngrams(words(response), 3)
    if len(set(triples)) < 0.6 * len(triples):
        return "repetition"
    if response.startswith(instruction) or (len(words(response)) >= 4 and response in shown):
        return "echo"
    return None


def words(text: str) -> list[str]:
    """Words and numbers in lower case."""
    return re.findall(r"\w+", text.lower())


def ngrams(sequence: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` words."""
    return [tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1)]


class Distinct:
    """The records kept so far; tells whether another one is too much like one of them.

    MinHash LSH over words finds candidates, generously; ROUGE-L (F1 over words) of at least `ROUGE_L` decides.
    """

    def __init__(self) -> None:
        # Texts of one length at ROUGE-L 0.7 share 0.54 of all their words; missing one costs more than checking one.
        self._index = MinHashLSH(threshold=0.4, num_perm=128, weights=(0.1, 0.9))
        self._words: dict[int, list[str]] = {}

    def add(self, text: str) -> bool:
        """Take a text in, unless a near-duplicate is there; whether it was taken in."""
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
    """The runs of `OVERLAP` words of the QA test split, of which no record may hold any."""

    def __init__(self, examples: Iterable[Example]) -> None:
        self._ngrams = {
            ngram for example in examples for text in (example.context, example.question) for ngram in _eights(text)
        }

    def overlaps(self, text: str) -> bool:
        """Whether a text shares a run of `OVERLAP` words with the test split."""
        return not self._ngrams.isdisjoint(_eights(text))


def _eights(text: str) -> list[tuple[str, ...]]:
    return ngrams(words(text), OVERLAP)
