import pytest
import torch

from narrowband.params import GenerationLoss, ReconstructionLoss
from narrowband.training import losses
from narrowband.training.losses import (
    AnswerLogits,
    Reconstruction,
    answer_terms,
    generation_loss,
    reconstruction_loss,
)
from narrowband.training.top_k import TopK

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


def test_tokens_weighted_by_their_counts_are_not_rounded_in_mixed_precision() -> None:
    original = torch.randn(50, 16)
    pair = Reconstruction(original, original + 0.1 * torch.randn(50, 16), torch.arange(1, 51))
    loss = reconstruction_loss(pair, WEIGHTS)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = reconstruction_loss(pair, WEIGHTS)
    assert rounded.loss.dtype == torch.float32 and rounded.parts == pytest.approx(loss.parts, rel=1e-4)


def terms(student: torch.Tensor, teacher: torch.Tensor, t: float = 1.0) -> dict[str, float]:
    targets = torch.zeros(len(student), dtype=torch.long)
    weights = GenerationLoss(cross_entropy=1, kl=1, kl_temperature=t, reconstruction=0)
    pair = Reconstruction(torch.ones(1, 2), torch.ones(1, 2))
    return generation_loss(AnswerLogits(student, teacher, targets), pair, weights, WEIGHTS).parts


@pytest.mark.parametrize("kept", [None, 3], ids=["whole vocabulary", "top tokens"])
def test_some_positions_at_a_time_have_the_loss_and_gradients_of_all_at_once(
    kept: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for most in (1 << 24, 2 * 9):  # all, and two positions at a time
        monkeypatch.setattr(losses, "MOST", most)
        generator = torch.Generator().manual_seed(0)
        student, teacher = (torch.randn(7, 9, generator=generator) for _ in range(2))
        student.requires_grad_()
        wanted = TopK.of(teacher / 2, kept) if kept else teacher
        answers = AnswerLogits(student, wanted, torch.arange(7), share=0.6)
        values = answer_terms(answers, 2.0)
        (0.3 * values[0] + 0.7 * values[1]).backward()
        found[most] = values.detach(), student.grad
    for whole, parts in zip(*found.values(), strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-7)


def test_kl_is_from_teacher_to_student_and_vanishes_when_they_agree() -> None:
    student, teacher = torch.randn(1, 6), torch.randn(1, 6)
    for t in (1.0, 2.0):
        p, q = torch.softmax(teacher[0] / t, -1), torch.softmax(student[0] / t, -1)
        assert terms(student, teacher, t)["kl"] == pytest.approx(float(t**2 * (p * (p / q).log()).sum()), rel=1e-4)
    assert terms(student, student)["kl"] == pytest.approx(0, abs=1e-6)
    expected = -float(torch.log_softmax(student[0], -1)[0])
    assert terms(student, student)["cross_entropy"] == pytest.approx(expected, rel=1e-5)
