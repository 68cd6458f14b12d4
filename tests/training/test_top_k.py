from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from narrowband.params import GenerationLoss, ReconstructionLoss
from narrowband.training.losses import AnswerLogits, Reconstruction, generation_loss
from narrowband.training.top_k import TopK, merge_others

VOCABULARY = 12


def kl(student: torch.Tensor, teacher: torch.Tensor | TopK, t: float) -> float:
    """The KL term over three answer positions."""
    answers = AnswerLogits(student, teacher, torch.zeros(3, dtype=torch.long))
    weights = GenerationLoss(cross_entropy=0, kl=1, kl_temperature=t, reconstruction=0)
    pair = Reconstruction(torch.ones(1, 2), torch.ones(1, 2))
    return generation_loss(answers, pair, weights, ReconstructionLoss(cosine=1, mse=1)).parts["kl"]


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 1.0, 10.0]), t=st.sampled_from([0.5, 1.0, 3.0]))
def test_the_kl_over_top_tokens_and_the_rest_grows_with_k_to_that_over_the_vocabulary(
    seed: int, scale: float, t: float
) -> None:
    logits = scale * torch.randn(2, 3, VOCABULARY, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    teacher, student = logits.float()
    p, q = (logits / t).softmax(-1)
    expected = float(t**2 * (p * (p / q).log()).sum() / 3)
    found = [kl(student, TopK.of(teacher / t, k), t) for k in range(1, VOCABULARY)]
    near = 1e-4 * (1 + expected)
    assert found[-1] == pytest.approx(expected, abs=near)
    assert all(0 - near <= less <= more + near for less, more in pairwise(found))


def test_merged_probabilities_by_hand() -> None:
    kept = TopK.of(torch.tensor([[0.2, 0.5, 0.1, 0.2]]).log() + 7, 1)
    assert kept.tokens.tolist() == [[1]]
    assert kept.log_probabilities.exp().tolist() == [pytest.approx([0.5, 0.5])]


def test_a_token_that_is_all_but_certain_leaves_a_finite_kl_and_gradient() -> None:
    teacher, student = torch.zeros(3, VOCABULARY), torch.zeros(3, VOCABULARY, requires_grad=True)
    teacher[:, 0] = 200.0
    value = kl(student, TopK.of(teacher, 1), 1.0)
    assert value == pytest.approx(torch.tensor(float(VOCABULARY)).log().item(), rel=1e-5)
    merge_others(student, TopK.of(teacher, 1).tokens).sum().backward()
    assert torch.isfinite(student.grad).all()
