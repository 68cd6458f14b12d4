import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA as ReferencePCA

from narrowband.codec.spectrum import prompt_spectrum, variance_shares
from narrowband.data.encoded import EncodedPrompt
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError


def reference_shares(rows: np.ndarray) -> dict[int, float]:
    """By scikit-learn, of rows that are repeated as often as they count."""
    kept = ReferencePCA(svd_solver="full").fit(rows.astype(np.float64)).explained_variance_ratio_
    return {ratio: kept[: rows.shape[1] // ratio].sum() for ratio in (2, 4, 8, 16, 32)}


def test_shares_are_those_of_scikit_learn_on_repeated_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(60, 32, generator=generator) @ torch.randn(32, 32, generator=generator) + 50
    counts = torch.randint(1, 40, (60,), generator=generator)
    found = variance_shares(table, counts)
    assert found == pytest.approx(reference_shares(table.repeat_interleave(counts, dim=0).numpy()), abs=1e-7)
    assert found != pytest.approx(variance_shares(table, torch.ones(60, dtype=torch.long)), abs=1e-3)


def test_variances_of_one_over_i_give_sums_of_the_harmonic_series() -> None:
    scales = torch.arange(1, 257).double().rsqrt()
    table = torch.cat([torch.diag(scales), -torch.diag(scales)])  # uncorrelated, of mean zero
    found = variance_shares(table, torch.ones(512, dtype=torch.long))
    harmonic = np.cumsum(1 / np.arange(1, 257))
    assert found == pytest.approx({ratio: harmonic[256 // ratio - 1] / harmonic[-1] for ratio in found})
    assert found[4] == pytest.approx(0.775, abs=5e-4)


def test_ratios_that_keep_less_than_a_component_are_left_out() -> None:
    assert list(variance_shares(torch.randn(10, 16), torch.ones(10, dtype=torch.long))) == [2, 4, 8, 16]


def test_embeddings_without_variance_are_refused() -> None:
    with pytest.raises(InputError, match="one distinct embedding"):
        variance_shares(torch.ones(3, 8), torch.tensor([1, 2, 3]))


def test_every_token_of_every_prompt_counts(lm: FrozenLM) -> None:
    rows = [[5, 6, 6, 7, 9], [6, 9, 11, 12]]
    prompts = [EncodedPrompt(ids, [i % 2 == 0 for i in range(len(ids))], False) for ids in rows]
    embeddings = lm.embed(torch.tensor(rows[0] + rows[1])).numpy()
    assert prompt_spectrum(lm, prompts) == pytest.approx(reference_shares(embeddings), abs=1e-6)
