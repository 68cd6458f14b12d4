import pytest
import torch

from narrowband.codec.exact import ExactProjection


@pytest.fixture
def vectors() -> torch.Tensor:
    return torch.randn(64, 1024, generator=torch.Generator().manual_seed(0)) * 0.05


@pytest.fixture
def projection() -> ExactProjection:
    generator = torch.Generator().manual_seed(1)
    components = torch.linalg.qr(torch.randn(1024, 96, generator=generator)).Q.T.contiguous()
    return ExactProjection.of(components, torch.randn(1024, generator=generator) * 0.01, largest_norm=3.0)


def test_it_is_the_sum_over_whole_numbers(projection: ExactProjection, vectors: torch.Tensor) -> None:
    """Python's whole numbers have no last bit."""
    directions = [[int(x) for x in row] for row in projection.directions[:3].tolist()]
    centred = (vectors[:4] - projection.mean).double() * projection.scale
    whole = [[round(x) for x in row] for row in centred.tolist()]
    unit = 2**24 * projection.scale
    expected = [[sum(a * b for a, b in zip(x, c, strict=True)) / unit for c in directions] for x in whole]
    assert projection(vectors[:4])[:, :3].tolist() == expected


def test_it_is_the_projection(projection: ExactProjection, vectors: torch.Tensor) -> None:
    expected = (vectors - projection.mean).double() @ projection.directions.T / 2**24
    torch.testing.assert_close(projection(vectors), expected, rtol=0, atol=1e-7)


def test_batch_order_and_threads_have_no_say(projection: ExactProjection, vectors: torch.Tensor) -> None:
    expected = projection(vectors)
    shuffled = torch.randperm(1024, generator=torch.Generator().manual_seed(2))
    other = ExactProjection(projection.directions[:, shuffled], projection.mean[shuffled], projection.scale)
    assert torch.equal(other(vectors[:, shuffled]), expected)
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            assert torch.equal(projection(vectors), expected)
            assert torch.equal(torch.cat([projection(row) for row in vectors.split(1)]), expected)
        finally:
            torch.set_num_threads(before)
