"""What the adapter is trained on: reconstruction (Phase 1), and the frozen LM's answers (Phase 2)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from narrowband.params import GenerationLoss, ReconstructionLoss
from narrowband.training.loop import StepLoss
from narrowband.training.top_k import TopK, merge_others


class Reconstruction(NamedTuple):
    """Original and reconstructed embeddings of the same coded tokens, and how often each occurs (`None`: once).

    For a part of a batch, also its share of the batch's coded tokens, and the mean square of all originals of the batch.
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
        # sums and no products of matrices, which mixed precision would round
        cosine, error, square = ((of_each * values).sum() for values in (cosines, *squares))
    mse = pair.share * error / (square if pair.mean_square is None else pair.mean_square)
    cosine = pair.share * (1 - cosine)
    return StepLoss(weights.cosine * cosine + weights.mse * mse, {"cosine_loss": cosine.item(), "mse_loss": mse.item()})


MOST = 1 << 24
"""Maximum number of logits that the loss processes at a time: 64 MiB, several times over."""


class AnswerLogits(NamedTuple):
    """Student logits (with the codec) and teacher logits (without) at the answer positions of a batch, and the target tokens.

    The teacher's may be reduced to its top tokens. For a part of a batch, `share` is its share of the batch's answer tokens.
    """

    student: Float[Tensor, "n vocab"]
    teacher: Float[Tensor, "n vocab"] | TopK
    targets: Int[Tensor, " n"]
    share: float = 1.0


def generation_loss(
    answers: AnswerLogits, pair: Reconstruction, weights: GenerationLoss, reconstruction: ReconstructionLoss
) -> StepLoss:
    """Weighted sum of cross-entropy and KL on answer positions, in nats per token, and the Phase 1 loss.

    The KL is T^2 KL(teacher || student) at temperature T (Hinton et al. 2015, arXiv:1503.02531, section 2), over the whole
    vocabulary, or over the teacher's top tokens with all others merged into one.
    """
    cross_entropy, kl = answers.share * answer_terms(answers, weights.kl_temperature)
    rebuilt = reconstruction_loss(pair, reconstruction)
    loss = weights.cross_entropy * cross_entropy + weights.kl * kl + weights.reconstruction * rebuilt.loss
    return StepLoss(loss, {"cross_entropy": cross_entropy.item(), "kl": kl.item(), **rebuilt.parts})


def answer_terms(answers: AnswerLogits, t: float) -> Float[Tensor, "2"]:
    """Cross-entropy and KL at temperature `t`, means over positions.

    Large inputs are processed in parts, which are recomputed in the backward pass instead of kept.
    """
    n, vocabulary = answers.student.shape
    size = max(1, MOST // vocabulary)
    if n <= size:
        return _summed(answers.student, answers.teacher, answers.targets, t) / n
    parts = zip(answers.student.split(size), answers.teacher.split(size), answers.targets.split(size), strict=True)
    return sum(checkpoint(_summed, *part, t, use_reentrant=False) for part in parts) / n


def _summed(student: Tensor, teacher: Tensor | TopK, targets: Tensor, t: float) -> Float[Tensor, "2"]:
    if isinstance(teacher, TopK):
        found, wanted = merge_others(student / t, teacher.tokens), teacher.log_probabilities
    else:
        found, wanted = torch.log_softmax(student / t, -1), torch.log_softmax(teacher / t, -1)
    kl = t**2 * F.kl_div(found, wanted, log_target=True, reduction="sum")
    return torch.stack([F.cross_entropy(student, targets, reduction="sum"), kl])
