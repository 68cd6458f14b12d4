"""The base model as its own critic: one token, A (good) or B (bad), by the margin of their log-probabilities."""

from collections.abc import Sequence
from random import Random

from sklearn.metrics import roc_auc_score

from narrowband.data.prompts import ANCHOR
from narrowband.sft.model import PlainModel
from narrowband.sft.prompts import FewShotExample

FORM = "Task: {}\nAnswer: {}\nIs the answer good (A) or bad (B)?"
ASK_FOR_TASK = "Write a short task."
GOOD, BAD = " A", " B"


class Critic:
    """Judges after two examples, a good one and a bad one, that are the same for all, so that engines can cache them."""

    def __init__(self, model: PlainModel, pool: Sequence[FewShotExample], seed: int) -> None:
        self.model = model
        first, second, other, *self._unseen = Random(seed).sample(list(pool), k=len(pool))
        self._pair_examples = _examples((first.instruction, first.completion), (second.instruction, other.completion))
        self._instruction_examples = _examples((ASK_FOR_TASK, first.instruction), (ASK_FOR_TASK, other.completion))

    def instruction_margins(self, instructions: Sequence[str]) -> list[float]:
        """How much likelier each is judged a good task than a bad one, in nats."""
        return self._margins([self._instruction_examples + FORM.format(ASK_FOR_TASK, _task(i)) for i in instructions])

    def pair_margins(self, instructions: Sequence[str], responses: Sequence[str]) -> list[float]:
        """How much likelier each response is judged good than bad as an answer to its instruction, in nats."""
        pairs = zip(instructions, responses, strict=True)
        return self._margins([self._pair_examples + FORM.format(_task(i), response) for i, response in pairs])

    def auc(self) -> float:
        """How well pair margins tell completions of the pool from those of other instructions: 0.5 is chance, 1 perfect."""
        tasks = [example.instruction for example in self._unseen]
        answers = [example.completion for example in self._unseen]
        margins = self.pair_margins(tasks * 2, [*answers, *answers[1:], answers[0]])
        return float(roc_auc_score([True] * len(tasks) + [False] * len(tasks), margins))

    def _margins(self, prompts: Sequence[str]) -> list[float]:
        return self.model.margins(prompts, GOOD, BAD)


def _examples(good: tuple[str, str], bad: tuple[str, str]) -> str:
    return f"{FORM.format(*good)}{GOOD}\n\n{FORM.format(*bad)}{BAD}\n\n"


def _task(instruction: str) -> str:
    """An instruction without the cue that one of several lines brings."""
    return instruction.removesuffix(ANCHOR)
