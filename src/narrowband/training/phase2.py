"""Phase 2: train the adapter through the frozen language model, on the answers it should give."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from narrowband.codec.codec import Codec
from narrowband.codec.folded import reconstruct
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import Batch, collate
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.rows import left_padded
from narrowband.params import Loss, Phase2
from narrowband.runtime import distributed
from narrowband.runtime.progress import bar
from narrowband.training.draws import Draws, turn
from narrowband.training.loop import StepLoss
from narrowband.training.losses import AnswerLogits, Reconstruction, generation_loss
from narrowband.training.micro_batches import WHOLE, Part, PhaseLoss, in_batch
from narrowband.training.top_k import TopK


class Lesson(NamedTuple):
    """A prompt and the tokens of its gold answer, line break included."""

    prompt: EncodedPrompt
    answer: list[int]


class LessonRows(NamedTuple):
    """Left-padded prompts with their answers; target tokens at the last positions, and which of these count.

    An answer's last token is a target, but never an input.
    """

    batch: Batch
    targets: Int[Tensor, "batch answer"]
    mask: Bool[Tensor, "batch answer"]


def lay_out(lm: FrozenLM, lessons: Sequence[Lesson]) -> LessonRows:
    """`lessons` as the rows of a batch."""
    batch = collate([lesson.prompt for lesson in lessons], lm.pad_id, [lesson.answer[:-1] for lesson in lessons])
    answers = [torch.tensor(lesson.answer, device=lm.device) for lesson in lessons]
    return LessonRows(batch, *left_padded(answers, lm.pad_id))


def answer_logits(
    lm: FrozenLM, embeddings: Float[Tensor, "batch seq hidden"], rows: LessonRows
) -> Float[Tensor, "n vocab"]:
    """Logits at the answer positions of `rows` that count, with `embeddings`, or states after the sender's blocks, as input."""
    return lm.logits_at(embeddings, rows.batch.mask.to(lm.device), rows.mask, rows.batch.shared, rows.batch.ids)


def teacher_forced(
    lm: FrozenLM, codec: Codec, lessons: Sequence[Lesson], known: TopK | None = None
) -> tuple[AnswerLogits, Reconstruction]:
    """Logits with and without the codec at the answer positions of a batch, and its coded embeddings.

    Answer tokens keep their own embeddings. `known` are the teacher's top tokens for these lessons, if computed beforehand.
    """
    rows = lay_out(lm, lessons)
    coded = rows.batch.coded
    original = lm.states(rows.batch.ids, rows.batch.mask)
    reconstructed = reconstruct(codec, lm, original, rows.batch)
    with torch.no_grad():
        teacher = known or answer_logits(lm, original, rows)
    student = answer_logits(lm, reconstructed, rows)
    answers = AnswerLogits(student, teacher, rows.targets[rows.mask])
    return answers, Reconstruction(original[coded], reconstructed[coded])


class Material(NamedTuple):
    """What Phase 2 trains on: questions, and SFT records for a share of its batches; `seed` draws both."""

    lessons: Sequence[Lesson]
    seed: int
    sft: Sequence[Lesson] = ()
    sft_share: float = 0.0

    @property
    def pool(self) -> list[Lesson]:
        """All lessons, questions first."""
        return [*self.lessons, *self.sft]

    def drawn(self, step: int, size: int) -> list[int]:
        """Indices in `pool` of the batch of `step`."""
        of_sft, index = turn(self.sft_share, step)
        n = len(self.lessons)
        return Draws(self.seed, size).batch(range(n, n + len(self.sft)) if of_sft else range(n), index)


def ask_teacher(lm: FrozenLM, lessons: Sequence[Lesson], phase2: Phase2, temperature: float) -> list[TopK]:
    """The teacher's top `phase2.teacher_top_k` tokens at the answer positions of each of `lessons`; on the CPU.

    Raises:
        InputError: `teacher_top_k` is as large as the vocabulary, or larger.
    """
    phase2.check_top_k(lm.embedding.num_embeddings)
    size = phase2.micro_batch or phase2.batch_size
    groups = [lessons[start : start + size] for start in range(0, len(lessons), size)]
    with bar("questions to the teacher", len(lessons)) as advance:

        @torch.no_grad()
        def ask(few: Sequence[Lesson]) -> list[TopK]:
            rows = lay_out(lm, few)
            logits = answer_logits(lm, lm.states(rows.batch.ids, rows.batch.mask), rows)
            found = TopK.of(logits / temperature, phase2.teacher_top_k).to(torch.device("cpu"))
            lengths = [len(lesson.answer) for lesson in few]
            advance(len(few))
            return [TopK(*of_one) for of_one in zip(*(tensor.split(lengths) for tensor in found), strict=True)]

        return [one for group in distributed.shared_out(ask, groups) for one in group]


def phase2_loss(lm: FrozenLM, codec: Codec, material: Material, phase2: Phase2, loss: Loss) -> PhaseLoss:
    """The loss of a step: teacher-forced cross-entropy, KL to the LM's own logits on the originals, reconstruction.

    Only answer positions count. A batch that is computed in parts is first sorted by length, so that little is padded. With
    `phase2.teacher_top_k`, the teacher's top tokens are computed here, once for each lesson that will be drawn.
    """
    pool = material.pool
    known: dict[int, TopK] = {}
    if phase2.teacher_top_k:
        needed = sorted({i for step in range(phase2.steps) for i in material.drawn(step, phase2.batch_size)})
        told = ask_teacher(lm, [pool[i] for i in needed], phase2, loss.phase2.kl_temperature)
        known = dict(zip(needed, told, strict=True))

    def step_loss(step: int, part: Part = WHOLE) -> StepLoss:
        chosen = material.drawn(step, phase2.batch_size)
        if part.count > 1:
            chosen.sort(key=lambda i: len(pool[i].prompt.ids))
        batch = [pool[i] for i in chosen]
        own = part.of(batch)
        kept = (TopK.cat(known[i] for i in part.of(chosen)).to(lm.device),) if known else ()
        answers, pair = teacher_forced(lm, codec, own, *kept)
        share = sum(len(lesson.answer) for lesson in own) / sum(len(lesson.answer) for lesson in batch)
        whole = in_batch(lm, pair, [lesson.prompt for lesson in batch])
        return generation_loss(answers._replace(share=share), whole, loss.phase2, loss.phase1)

    return step_loss
