"""Phase 2: train the adapter through the frozen language model, on the answers it should give."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from narrowband.codec.codec import Codec
from narrowband.data.prompts import EncodedPrompt, collate
from narrowband.lm import FrozenLM
from narrowband.params import Params
from narrowband.training.batches import draw
from narrowband.training.loop import StepLoss
from narrowband.training.losses import Answers, Reconstruction, generation_loss


class Lesson(NamedTuple):
    """A prompt and the tokens of its gold answer, line break included."""

    prompt: EncodedPrompt
    answer: list[int]


def phase2_loss(lm: FrozenLM, codec: Codec, lessons: Sequence[Lesson], params: Params) -> Callable[[int], StepLoss]:
    """The loss of a step: teacher-forced cross-entropy, KL to the LM's own logits on the originals, reconstruction.

    Only answer positions count. An answer's tokens keep their own embeddings; its last one is predicted, never fed.
    """

    def step_loss(step: int) -> StepLoss:
        drawn = draw(lessons, params.phase2.batch_size, params.seed, step)
        batch = collate([lesson.prompt for lesson in drawn], lm.pad_id, [lesson.answer[:-1] for lesson in drawn])
        longest = max(len(lesson.answer) for lesson in drawn)
        targets = torch.tensor(
            [[lm.pad_id] * (longest - len(answer)) + answer for _, answer in drawn], device=lm.device
        )
        mask = torch.tensor(
            [[j >= longest - len(answer) for j in range(longest)] for _, answer in drawn], device=lm.device
        )
        original = lm.embed(batch.ids)
        reconstructed = codec(original, batch.coded)
        attention = batch.mask.to(lm.device)
        with torch.no_grad():
            teacher = lm.logits(original, attention, longest)
        student = lm.logits(reconstructed, attention, longest)
        return generation_loss(
            Answers(student, teacher, targets, mask),
            Reconstruction(original[batch.coded], reconstructed[batch.coded]),
            params.loss.phase2,
            params.loss.phase1,
        )

    return step_loss
