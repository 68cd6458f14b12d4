"""What the adapter is trained on: reconstruction (Phase 1), and the frozen LM's answers (Phase 2)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from narrowband.params import GenerationLoss, ReconstructionLoss
from narrowband.training.loop import StepLoss


class Reconstruction(NamedTuple):
    """Original and reconstructed embeddings of the same coded tokens, and how often each occurs (`None`: once)."""

    original: Float[Tensor, "n hidden"]
    reconstructed: Float[Tensor, "n hidden"]
    counts: Int[Tensor, " n"] | None = None


def reconstruction_loss(pair: Reconstruction, weights: ReconstructionLoss) -> StepLoss:
    """`cosine * (1 - mean cosine) + mse * (squared error over the originals' mean square)`, as in the first seed.

    The squared error is relative so that a weight means the same for embeddings of any size; the seed's was absolute.
    """
    original, reconstructed, counts = pair
    cosines = F.cosine_similarity(original, reconstructed, dim=-1)
    if counts is None:
        cosine = 1 - cosines.mean()
        mse = F.mse_loss(reconstructed, original) / original.square().mean()
    else:
        share = counts / counts.sum()
        cosine = 1 - share @ cosines
        mse = share @ (reconstructed - original).square().mean(-1) / (share @ original.square().mean(-1))
    return StepLoss(weights.cosine * cosine + weights.mse * mse, {"cosine_loss": cosine.item(), "mse_loss": mse.item()})


class Answers(NamedTuple):
    """Answer positions of a batch: logits with and without the codec, the right tokens, and which of them count."""

    student: Float[Tensor, "batch answer vocab"]
    teacher: Float[Tensor, "batch answer vocab"]
    targets: Int[Tensor, "batch answer"]
    mask: Bool[Tensor, "batch answer"]


def generation_loss(
    answers: Answers, pair: Reconstruction, weights: GenerationLoss, reconstruction: ReconstructionLoss
) -> StepLoss:
    """Cross-entropy and KL on answer positions, in nats a token, and a share of the Phase 1 loss.

    The KL is from teacher to student at temperature T, times T^2 (Hinton et al. 2015, arXiv:1503.02531, section 2).
    """
    student, teacher = answers.student[answers.mask], answers.teacher[answers.mask]  # [tokens, vocab]
    cross_entropy = F.cross_entropy(student, answers.targets[answers.mask])
    t = weights.kl_temperature
    kl = t**2 * F.kl_div(
        torch.log_softmax(student / t, -1), torch.log_softmax(teacher / t, -1), log_target=True, reduction="batchmean"
    )
    rebuilt = reconstruction_loss(pair, reconstruction)
    loss = weights.cross_entropy * cross_entropy + weights.kl * kl + weights.reconstruction * rebuilt.loss
    return StepLoss(loss, {"cross_entropy": cross_entropy.item(), "kl": kl.item(), **rebuilt.parts})
