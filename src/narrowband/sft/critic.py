"""The base model as its own critic: is an answer good (A) or bad (B), by the difference of their log-probabilities?"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from narrowband.data.prompts import ANCHOR
from narrowband.lm.plain_text import encode_plainly
from narrowband.sft.model import PlainModel, require_one_token
from narrowband.sft.pool import FewShotExample

FORM = "Task: {}\nAnswer: {}\nIs the answer good (A) or bad (B)?"
ASK_FOR_TASK = "Write a short task."
GOOD, BAD = " A", " B"

JUDGES = 0.7
"""Minimum AUC for a critic to decide: "acceptable discrimination" in Hosmer and Lemeshow, Applied Logistic Regression."""


def require_critic(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a tokenizer has one token for each of the critic's two verdicts.

    Raises:
        InputError: it hasn't.
    """
    rows = [[encode_plainly(tokenizer, FORM + end).input_ids] for end in (GOOD, BAD)]
    require_one_token(GOOD, BAD, *rows)


class Reliability(NamedTuple):
    """AUC of the critic on the pool: good instructions and pairs against bad ones. 0.5 is chance, 1 is perfect."""

    instruction_auc: float
    pair_auc: float

    @property
    def judges_instructions(self) -> bool:
        """Whether it may reject instructions; if not, it abstains."""
        return self.instruction_auc >= JUDGES

    @property
    def judges_pairs(self) -> bool:
        """Whether it may reject answers; if not, it abstains."""
        return self.pair_auc >= JUDGES

    @property
    def sentence(self) -> str:
        """What the critic decides, in one sentence."""
        decided = {"instructions": self.judges_instructions, "answers": self.judges_pairs}
        judged = " and ".join(name for name, judges in decided.items() if judges) or "nothing"
        return (
            f"the critic judges {judged} (AUC {self.instruction_auc:.2f} on instructions, {self.pair_auc:.2f} on answers; below "
            f"{JUDGES} it abstains)"
        )


class Critic:
    """Judges with one good and one bad example in the prompt, always the same two, so that they can be cached."""

    def __init__(self, model: PlainModel, pool: Sequence[FewShotExample], seed: int) -> None:
        self.model = model
        first, second, other, *self._unseen = Random(seed).sample(list(pool), k=len(pool))
        self._pair_examples = _examples((first.instruction, first.completion), (second.instruction, other.completion))
        self._instruction_examples = _examples((ASK_FOR_TASK, first.instruction), (ASK_FOR_TASK, other.completion))

    def instruction_margins(self, instructions: Sequence[str]) -> list[float]:
        """`log P(good) - log P(bad)` of each instruction as a task, in nats."""
        return self._margins([self._instruction_examples + FORM.format(ASK_FOR_TASK, _task(i)) for i in instructions])

    def pair_margins(self, instructions: Sequence[str], responses: Sequence[str]) -> list[float]:
        """`log P(good) - log P(bad)` of each response as an answer to its instruction, in nats."""
        pairs = zip(instructions, responses, strict=True)
        return self._margins([self._pair_examples + FORM.format(_task(i), response) for i, response in pairs])

    def reliability(self) -> Reliability:
        """How well margins separate the pool's instructions from other text, and its answers from those to other instructions.

        Examples in the critic's own prompt are left out.
        """
        tasks = [example.instruction for example in self._unseen]
        answers = [example.completion for example in self._unseen]
        pairs = self.pair_margins(tasks * 2, [*answers, *answers[1:], answers[0]])
        return Reliability(_auc(self.instruction_margins([*tasks, *answers])), _auc(pairs))

    def _margins(self, prompts: Sequence[str]) -> list[float]:
        return self.model.margins(prompts, GOOD, BAD)


def _auc(margins: Sequence[float]) -> float:
    """Area under the ROC curve, from Mann and Whitney's U; the first half of `margins` belongs to good texts, the rest to bad."""
    from scipy.stats import mannwhitneyu  # slow to import

    half = len(margins) // 2
    return float(mannwhitneyu(margins[:half], margins[half:]).statistic) / half**2


def _examples(good: tuple[str, str], bad: tuple[str, str]) -> str:
    return f"{FORM.format(*good)}{GOOD}\n\n{FORM.format(*bad)}{BAD}\n\n"


def _task(instruction: str) -> str:
    """An instruction without its "Answer:" cue."""
    return instruction.removesuffix(ANCHOR)
