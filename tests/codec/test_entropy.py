import math

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from scipy import stats

from narrowband.codec.entropy import PRECISION, EntropyModel
from narrowband.params import InputError

DEVIATIONS = torch.tensor([3.0, 1.0, 0.4, 0.02])


def draw(n: int, seed: int) -> torch.Tensor:
    """Gaussian latents of falling variance."""
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)) * DEVIATIONS


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return draw(20_000, 0)


@pytest.fixture(scope="module")
def model(latents: torch.Tensor) -> EntropyModel:
    return EntropyModel.fit(latents, 0.5)


def mean_bits(model: EntropyModel, latents: torch.Tensor) -> float:
    """Ideal bits that a vector of `latents` costs, on average."""
    return float(model.ideal_bits(model.quantize(latents)).mean())


def discrete_entropy(deviation: float, step: float) -> float:
    """Bits of a Gaussian rounded to multiples of `step`, by scipy."""
    edges = (np.arange(-400, 402) - 0.5) * step
    return float(stats.entropy(np.diff(stats.norm.cdf(edges, scale=deviation)), base=2))


@pytest.mark.parametrize("step", [0.05, 0.5, 2.0, 20.0])
def test_probabilities_are_whole_numbers_that_sum_to_one(latents: torch.Tensor, step: float) -> None:
    model = EntropyModel.fit(latents, step)
    assert model.frequencies.dtype == torch.int32 and int(model.frequencies.min()) >= 1
    assert [int(table.sum()) for table in model.frequencies.split(model.sizes.tolist())] == [2**PRECISION] * 4


@pytest.mark.parametrize("step", [0.1, 0.5, 2.0])
def test_unseen_latents_cost_the_entropy_of_the_rounded_source(latents: torch.Tensor, step: float) -> None:
    expected = sum(discrete_entropy(deviation, step) for deviation in DEVIATIONS.tolist())
    assert mean_bits(EntropyModel.fit(latents, step), draw(20_000, 1)) == pytest.approx(expected, rel=0.01)


def test_a_rounded_gaussian_costs_a_quarter_of_a_bit_more_than_reverse_water_filling(latents: torch.Tensor) -> None:
    """The rate-distortion function is log2(deviation / error) a component; uniform rounding is log2(2 pi e / 12) / 2 above it."""
    model = EntropyModel.fit(latents, 0.2)
    rebuilt = model.dequantize(model.quantize(latents))
    level = (rebuilt - latents).square().mean(0)[:3].mean()
    bound = sum(math.log2(deviation / math.sqrt(float(level))) for deviation in DEVIATIONS.tolist()[:3])
    assert mean_bits(model, latents) - bound == pytest.approx(3 * math.log2(2 * math.pi * math.e / 12) / 2, abs=0.05)


def test_components_below_the_step_are_dropped_and_free(latents: torch.Tensor, model: EntropyModel) -> None:
    assert (model.sizes > 1).tolist() == [True, True, True, False]
    without = EntropyModel.fit(latents[:, :3], 0.5)
    assert mean_bits(model, latents) == pytest.approx(mean_bits(without, latents[:, :3]))
    assert not model.quantize(torch.full((1, 4), 9.0))[0, 3]


def test_all_components_get_the_same_error(latents: torch.Tensor) -> None:
    model = EntropyModel.fit(latents, 0.2)
    errors = (model.dequantize(model.quantize(latents)) - latents).square().mean(0)[:3]
    torch.testing.assert_close(errors, torch.full((3,), 0.2**2 / 12), rtol=0.03, atol=0)


def test_symbols_are_the_nearest_multiples_and_read_back_as_the_mean_of_their_cell(latents: torch.Tensor) -> None:
    model = EntropyModel.fit(latents, 1.0)
    symbols = model.quantize(latents)
    np.testing.assert_array_equal(symbols[:, :3], np.rint(latents[:, :3].double().numpy()))
    rebuilt = model.dequantize(symbols)
    for component, symbol in [(0, -2), (1, 1), (2, 1)]:
        cell = latents[symbols[:, component] == symbol, component].double()
        point = rebuilt[symbols[:, component] == symbol, component].unique()
        assert point.tolist() == pytest.approx([float(cell.mean())], abs=1 / len(cell))
    middles = symbols * model.step
    assert (rebuilt - latents).square().sum() < 0.95 * (middles - latents).square().sum()


def test_a_symbol_that_training_never_saw_is_coded_all_the_same(model: EntropyModel) -> None:
    symbols = model.quantize(torch.tensor([[1e4, 0.0, 0.0, 0.0]]))
    assert model.dequantize(symbols)[0, 0] == 1e4
    assert 24 < float(model.ideal_bits(symbols)) < 72


@pytest.mark.parametrize("bits", [0.3, 4.0, 20.0])
def test_the_step_for_a_rate_spends_that_rate(latents: torch.Tensor, bits: float) -> None:
    assert mean_bits(EntropyModel.fit_rate(latents, bits), latents) == pytest.approx(bits, rel=2e-3)


def test_few_vectors_are_no_trouble() -> None:
    model = EntropyModel.fit(draw(3, 2), 0.1)
    assert math.isfinite(mean_bits(model, draw(100, 3)))


def test_a_saved_model_is_the_same(model: EntropyModel, latents: torch.Tensor) -> None:
    loaded = EntropyModel(**load(save(model.tensors)))
    symbols = loaded.quantize(latents)
    assert torch.equal(symbols, model.quantize(latents))
    assert torch.equal(loaded.ideal_bits(symbols), model.ideal_bits(symbols))
    assert torch.equal(loaded.dequantize(symbols), model.dequantize(symbols))


def test_what_cannot_be_coded_is_refused(model: EntropyModel, latents: torch.Tensor) -> None:
    with pytest.raises(InputError, match="at least one training vector"):
        EntropyModel.fit(latents[:0], 1.0)
    with pytest.raises(InputError, match="at most 65536 are coded; choose a step of at least"):
        EntropyModel.fit(latents, 1e-5)
    with pytest.raises(InputError, match=r"a step of 50 rounds all latents to 0, .* choose a step of at most"):
        EntropyModel.fit(latents, 50.0)
    assert int(EntropyModel.fit(latents, 1.99 * float(latents.abs().max())).sizes.max()) > 1
    with pytest.raises(InputError, match="must be finite"):
        model.quantize(torch.full((1, 4), math.nan))
    for bits in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="bits a vector of latents can't be met"):
            EntropyModel.fit_rate(latents, bits)
    with pytest.raises(InputError, match=r"cells each; lower latent_coding.bits_per_token or raise compress_dim"):
        EntropyModel.fit_rate(latents, 100.0)
    with pytest.raises(InputError, match="cells but at most"):
        EntropyModel.fit(latents, 1e-9)
