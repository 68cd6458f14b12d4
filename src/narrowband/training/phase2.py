"""Phase 2: train the adapter through the frozen language model, on the answers it should give."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from narrowband.codec.codec import Codec
from narrowband.codec.folded import reconstruct
from narrowband.data.prompts import EncodedPrompt, collate
from narrowband.lm import FrozenLM
from narrowband.params import Params
from narrowband.training.batches import draw, turn
from narrowband.training.loop import StepLoss
from narrowband.training.losses import Answers, Reconstruction, generation_loss


class Lesson(NamedTuple):
    """A prompt and the tokens of its gold answer, line break included."""

    prompt: EncodedPrompt
    answer: list[int]


def teacher_forced(lm: FrozenLM, codec: Codec, lessons: Sequence[Lesson]) -> tuple[Answers, Reconstruction]:
    """Logits with and without the codec at the answer positions of a batch, and its coded embeddings.

    An answer's tokens keep their own embeddings; its last one is predicted, never fed.
    """
    batch = collate([lesson.prompt for lesson in lessons], lm.pad_id, [lesson.answer[:-1] for lesson in lessons])
    longest = max(len(lesson.answer) for lesson in lessons)
    targets = torch.tensor([[lm.pad_id] * (longest - len(answer)) + answer for _, answer in lessons], device=lm.device)
    mask = torch.tensor(
        [[j >= longest - len(answer) for j in range(longest)] for _, answer in lessons], device=lm.device
    )
    original = lm.embed(batch.ids)
    reconstructed = reconstruct(codec, lm, original, batch)
    attention = batch.mask.to(lm.device)
    with torch.no_grad():
        teacher = lm.logits(original, attention, longest)
    student = lm.logits(reconstructed, attention, longest)
    return Answers(student, teacher, targets, mask), Reconstruction(original[batch.coded], reconstructed[batch.coded])


def phase2_loss(
    lm: FrozenLM, codec: Codec, lessons: Sequence[Lesson], params: Params, sft: Sequence[Lesson] = ()
) -> Callable[[int], StepLoss]:
    """The loss of a step: teacher-forced cross-entropy, KL to the LM's own logits on the originals, reconstruction.

    Only answer positions count. `data.phase2_sft_share` of the steps draw from `sft` instead of `lessons`.
    """

    def step_loss(step: int) -> StepLoss:
        of_sft, index = turn(params.data.phase2_sft_share, step)
        drawn = draw(sft if of_sft else lessons, params.phase2.batch_size, params.seed, index)
        return generation_loss(*teacher_forced(lm, codec, drawn), params.loss.phase2, params.loss.phase1)

    return step_loss
