"""Training of the context encoder through the frozen language model, on answers and on the contexts themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import encode_answer
from narrowband.data.splits import world_example
from narrowband.data.squad import Example
from narrowband.evaluation.answer import QuestionAnswerer
from narrowband.evaluation.reading import read_answers
from narrowband.lm.frozen import FrozenLM
from narrowband.params import GenerationLoss, Prompt
from narrowband.reader.encoder import ContextEncoder
from narrowband.reader.shorten import Shortener, latents, lay_rows
from narrowband.reader.split_prompt import SplitPrompt, split_prompts
from narrowband.runtime.entry import console
from narrowband.runtime.progress import bar
from narrowband.training.draws import Draws
from narrowband.training.loop import Evaluation, StepLoss
from narrowband.training.losses import AnswerLogits, answer_terms
from narrowband.training.micro_batches import WHOLE, Part, PhaseLoss
from narrowband.training.phase2 import Lesson, LessonRows, answer_logits, lay_out

CUE = "\nContext:"
"""The cue to repeat a context."""

FIRST_FRESH = 1_000_000
"""Index in the bundled world's training split from which fresh questions are taken, beyond the questions of any run.

A run's questions include its worked examples; a question right after its own answer would teach the encoder nothing.
"""


class ReaderLesson(NamedTuple):
    """A prompt whose context is read as latents, and the target tokens after it."""

    prompt: SplitPrompt
    answer: list[int]


Questions = Callable[[int], Sequence[Example]]
"""The training questions of a step."""


def fresh_questions(seed: int, size: int) -> Questions:
    """`size` questions of the bundled world's training split for each step, none of them twice.

    The split has no end beyond `FIRST_FRESH`. It contains no name of validation or test questions and no held-out word.
    """
    return lambda step: [world_example(seed, "train", FIRST_FRESH + step * size + i) for i in range(size)]


def drawn_questions(examples: Sequence[Example], draws: Draws) -> Questions:
    """Questions drawn from `examples`, each once an epoch."""
    return lambda step: draws.batch(examples, step)


@dataclass(frozen=True)
class Lessons:
    """The lessons of each step: repeat and continue contexts for `pretrain_steps` steps, then answer questions.

    Of a long context or answer only the beginning is repeated, as far as the base model has `positions` (`None`: no limit).
    """

    tokenizer: PreTrainedTokenizerBase
    prompt: Prompt
    questions: Questions
    pretrain_steps: int
    positions: int | None = None

    def tokens_per_position(self, step: int, most: int) -> int:
        """Context tokens per position at `step`: in pretraining 2, 4 and so on up to `most`, in equal shares, then `most`.

        From mean pooling, an encoder learns to merge two tokens in some hundred steps; two runs that began at four, of 500 and of
        1,000 steps, learned nothing (docs/log.md).
        """
        if step >= self.pretrain_steps:
            return most
        sizes = [*(2**i for i in range(1, most.bit_length()) if 2**i < most), most]
        return sizes[step * len(sizes) // self.pretrain_steps]

    def at(self, step: int) -> list[ReaderLesson]:
        """The lessons of `step`; in pretraining, contexts are repeated and continued in turn."""
        examples = self.questions(step)
        prompts = split_prompts(self.tokenizer, examples, self.prompt)
        if step < self.pretrain_steps:
            return [self._repeat(p) if i % 2 else _continue(p) for i, p in enumerate(prompts)]
        answers = [encode_answer(self.tokenizer, example.golds[0]) for example in examples]
        return [self._fitting(*pair) for pair in zip(prompts, answers, strict=True)]

    def _repeat(self, prompt: SplitPrompt) -> ReaderLesson:
        cue: list[int] = self.tokenizer(CUE, add_special_tokens=False).input_ids
        return self._fitting(prompt._replace(question=cue), prompt.context)

    def _fitting(self, prompt: SplitPrompt, answer: list[int]) -> ReaderLesson:
        room = None if self.positions is None else max(1, self.positions - len(prompt.ids))
        return ReaderLesson(prompt, answer[:room])


def _continue(prompt: SplitPrompt) -> ReaderLesson:
    """Continue a context: its second half after latents of the first; for a single token, that token."""
    middle = (len(prompt.context) + 1) // 2
    first, second = prompt.context[:middle], prompt.context[middle:] or prompt.context
    return ReaderLesson(prompt._replace(context=first, question=[]), second)


def reader_logits(lm: FrozenLM, encoder: Shortener, lessons: Sequence[ReaderLesson]) -> AnswerLogits:
    """Logits at the answers of `lessons`, teacher-forced: after latents of the contexts, and after the contexts as text.

    Worked examples are read once, for all steps.
    """
    rows = _as_text(lm, lessons)
    with torch.no_grad():
        teacher = answer_logits(lm, lm.embed(rows.batch.ids), rows)
    prompts = [lesson.prompt for lesson in lessons]
    read = lay_rows(lm, prompts, latents(lm, encoder, prompts), [lesson.answer[:-1] for lesson in lessons])
    return AnswerLogits(lm.logits_at(*read, rows.mask, rows.batch.shared), teacher, rows.targets[rows.mask])


def _as_text(lm: FrozenLM, lessons: Sequence[ReaderLesson]) -> LessonRows:
    plain = (EncodedPrompt(one.ids, [False] * len(one.ids), truncated=False, shared=one.shared) for one, _ in lessons)
    return lay_out(lm, [Lesson(prompt, lesson.answer) for prompt, lesson in zip(plain, lessons, strict=True)])


def reader_loss(lm: FrozenLM, encoder: ContextEncoder, lessons: Lessons, weights: GenerationLoss) -> PhaseLoss:
    """The loss of a step: cross-entropy of the targets, and KL to the model's own logits with the contexts as text."""

    def step_loss(step: int, part: Part = WHOLE) -> StepLoss:
        batch = lessons.at(step)
        own = part.of(batch)
        share = sum(len(lesson.answer) for lesson in own) / sum(len(lesson.answer) for lesson in batch)
        merged = encoder.at(lessons.tokens_per_position(step, encoder.k))
        cross_entropy, kl = share * answer_terms(reader_logits(lm, merged, own), weights.kl_temperature)
        loss = weights.cross_entropy * cross_entropy + weights.kl * kl
        return StepLoss(loss, {"cross_entropy": cross_entropy.item(), "kl": kl.item()})

    return step_loss


def reader_evaluation(
    answerer: QuestionAnswerer, encoder: ContextEncoder, examples: Sequence[Example]
) -> Callable[[], Evaluation]:
    """An evaluation on `examples` that also prints the answer to the first of them."""

    def evaluate() -> Evaluation:
        with bar("validation questions", len(examples)) as advance:
            read = read_answers(answerer, encoder, examples, advance)
        first = examples[0]
        said = f"reader: expected {first.golds[0]!r}, answered {read.predictions[first.id]!r} to {first.question!r}"
        console.print(said, highlight=False)
        return Evaluation(read.f1, {"f1": read.f1, "em": read.em})

    return evaluate
