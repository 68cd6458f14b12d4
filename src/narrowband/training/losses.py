"""What the adapter is trained on: reconstruction (Phase 1), and the frozen LM's answers (Phase 2)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from narrowband.params import GenerationLoss, ReconstructionLoss
from narrowband.training.loop import StepLoss
from narrowband.training.top_k import TopK, merge_others


class Reconstruction(NamedTuple):
    """Original and reconstructed embeddings of the same coded tokens, and how often each occurs (`None`: once).

    Of a part of a batch, also its share of the batch's coded tokens and the mean square of all their originals.
    """

    original: Float[Tensor, "n hidden"]
    reconstructed: Float[Tensor, "n hidden"]
    counts: Int[Tensor, " n"] | None = None
    share: float = 1.0
    mean_square: Float[Tensor, ""] | None = None


def reconstruction_loss(pair: Reconstruction, weights: ReconstructionLoss) -> StepLoss:
    """`cosine * (1 - mean cosine) + mse * (squared error over the originals' mean square)`, as in the original run.

    The squared error is relative so that a weight means the same for embeddings of any size; the original run's was absolute.
    """
    original, reconstructed = pair.original, pair.reconstructed
    cosines = F.cosine_similarity(original, reconstructed, dim=-1)
    if pair.counts is None:
        cosine, error, square = cosines.mean(), F.mse_loss(reconstructed, original), original.square().mean()
    else:
        of_each = pair.counts / pair.counts.sum()
        squares = (reconstructed - original).square().mean(-1), original.square().mean(-1)
        cosine, error, square = (of_each @ values for values in (cosines, *squares))
    mse = pair.share * error / (square if pair.mean_square is None else pair.mean_square)
    cosine = pair.share * (1 - cosine)
    return StepLoss(weights.cosine * cosine + weights.mse * mse, {"cosine_loss": cosine.item(), "mse_loss": mse.item()})


class AnswerLogits(NamedTuple):
    """Answer positions of a batch: logits with and without the codec, the right tokens, and which of them count.

    The teacher's may be those kept of positions that count. `share` is that of the answer tokens of a whole batch.
    """

    student: Float[Tensor, "batch answer vocab"]
    teacher: Float[Tensor, "batch answer vocab"] | TopK
    targets: Int[Tensor, "batch answer"]
    mask: Bool[Tensor, "batch answer"]
    share: float = 1.0


def generation_loss(
    answers: AnswerLogits, pair: Reconstruction, weights: GenerationLoss, reconstruction: ReconstructionLoss
) -> StepLoss:
    """Cross-entropy and KL on answer positions, in nats a token, and a share of the Phase 1 loss.

    The KL is from teacher to student at temperature T, times T^2 (Hinton et al. 2015, arXiv:1503.02531, section 2), over
    the whole vocabulary, or over the teacher's top tokens and all others together.
    """
    student = answers.student[answers.mask]  # [tokens, vocab]
    cross_entropy = answers.share * F.cross_entropy(student, answers.targets[answers.mask])
    t = weights.kl_temperature
    if isinstance(answers.teacher, TopK):
        found, wanted = merge_others(student / t, answers.teacher.tokens), answers.teacher.log_probabilities
    else:
        found = torch.log_softmax(student / t, -1)
        wanted = torch.log_softmax(answers.teacher[answers.mask] / t, -1)
    kl = answers.share * t**2 * F.kl_div(found, wanted, log_target=True, reduction="batchmean")
    rebuilt = reconstruction_loss(pair, reconstruction)
    loss = weights.cross_entropy * cross_entropy + weights.kl * kl + weights.reconstruction * rebuilt.loss
    return StepLoss(loss, {"cross_entropy": cross_entropy.item(), "kl": kl.item(), **rebuilt.parts})
