import pytest
import torch

from narrowband.params import GenerationLoss, ReconstructionLoss
from narrowband.training.losses import AnswerLogits, Reconstruction, generation_loss, reconstruction_loss

WEIGHTS = ReconstructionLoss(cosine=1.0, mse=0.1)


def test_reconstruction_loss_by_hand() -> None:
    pair = Reconstruction(torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]]))
    loss = reconstruction_loss(pair, WEIGHTS)
    assert loss.parts["cosine_loss"] == pytest.approx(1 - 24 / 25)
    assert loss.parts["mse_loss"] == pytest.approx(1 / 12.5)
    assert float(loss.loss) == pytest.approx(0.04 + 0.1 * 0.08)


def test_a_scaled_copy_has_no_cosine_loss_but_an_mse() -> None:
    original = torch.randn(5, 7)
    parts = reconstruction_loss(Reconstruction(original, 3 * original), WEIGHTS).parts
    assert parts["cosine_loss"] == pytest.approx(0, abs=1e-6)
    assert parts["mse_loss"] == pytest.approx(4, rel=1e-5)


def terms(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, t: float = 1.0) -> dict[str, float]:
    targets = torch.zeros(mask.shape, dtype=torch.long)
    weights = GenerationLoss(cross_entropy=1, kl=1, kl_temperature=t, reconstruction=0)
    pair = Reconstruction(torch.ones(1, 2), torch.ones(1, 2))
    return generation_loss(AnswerLogits(student, teacher, targets, mask), pair, weights, WEIGHTS).parts


def test_only_answer_positions_count() -> None:
    student, teacher = torch.randn(2, 4, 9), torch.randn(2, 4, 9)
    mask = torch.tensor([[False, True, True, True], [False, False, False, True]])
    expected = terms(student, teacher, mask)
    student[~mask], teacher[~mask] = 1e4, -1e4
    assert terms(student, teacher, mask) == expected


def test_kl_is_from_teacher_to_student_and_vanishes_when_they_agree() -> None:
    mask = torch.ones(1, 1, dtype=torch.bool)
    student, teacher = torch.randn(1, 1, 6), torch.randn(1, 1, 6)
    for t in (1.0, 2.0):
        p, q = torch.softmax(teacher[0, 0] / t, -1), torch.softmax(student[0, 0] / t, -1)
        assert terms(student, teacher, mask, t)["kl"] == pytest.approx(
            float(t**2 * (p * (p / q).log()).sum()), rel=1e-4
        )
    assert terms(student, student, mask)["kl"] == pytest.approx(0, abs=1e-6)
    expected = -float(torch.log_softmax(student[0, 0], -1)[0])
    assert terms(student, student, mask)["cross_entropy"] == pytest.approx(expected, rel=1e-5)
