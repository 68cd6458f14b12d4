"""PCA from counts of tokens, against scikit-learn on the whole matrix."""

import torch
from scipy.linalg import subspace_angles
from torch import Tensor

from benchmarks.measure import Row, in_child, interleaved, seconds
from benchmarks.reference import fit_pca
from benchmarks.setting import base_lm, prompts
from narrowband.codec.pca import PCA
from narrowband.codec.token_windows import token_windows

COMPRESS = 256

VOCABULARY, HIDDEN, TOKENS = 32_000, 1024, 1_000_000
"""A word-piece vocabulary; token `r` has a frequency of 1 / r (Zipf 1949)."""

WINDOW, WINDOWS, PROMPTS = 16, 100_000, 20_000
"""Windows of the bundled world's prompts, at hidden 256."""


def spectrum() -> Tensor:
    """Embeddings in correlated directions, whose standard deviations fall by e over a quarter of the width."""
    generator = torch.Generator().manual_seed(1)
    scales = torch.exp(-4 * torch.arange(HIDDEN) / HIDDEN)
    return torch.randn(VOCABULARY, HIDDEN, generator=generator) * scales + 0.1


def zipf(tokens: int) -> Tensor:
    """Ids of `tokens` tokens, drawn in chunks, as windows of one token."""
    generator = torch.Generator().manual_seed(0)
    frequencies = 1 / torch.arange(1, VOCABULARY + 1, dtype=torch.float64)
    chunk = min(tokens, 100_000)
    drawn = [
        torch.multinomial(frequencies, chunk, replacement=True, generator=generator) for _ in range(tokens // chunk)
    ]
    return torch.cat(drawn)[:, None]


def fit_tokens(tokens: int) -> dict[str, float]:
    """Fit to `tokens` tokens; the number of components."""
    return {"components": len(PCA.fit(spectrum(), COMPRESS, zipf(tokens)).components)}


def fit_windows(repeats: int) -> dict[str, float]:
    """Fit to the windows of a tenth of the prompts, repeated `repeats` times; the number of components."""
    vectors, windows = token_windows(base_lm(), prompts(PROMPTS // 10), WINDOW)
    return {"components": len(PCA.fit(vectors, COMPRESS, windows.repeat(repeats, 1)).components)}


def growth(function: str, few: int, many: int) -> float:
    """Peak memory of a fit to `many` over that of a fit to `few`."""
    peaks = [in_child("benchmarks.pca", function, n)["peak_bytes"] for n in (few, many)]
    return peaks[1] / peaks[0]


def from_counts() -> Row:
    """PCA of single tokens."""
    table, tokens = spectrum(), zipf(TOKENS)
    fitted = []
    fast = interleaved({"counts": lambda: fitted.append(PCA.fit(table, COMPRESS, tokens))}, 3)
    single = table[tokens[:, 0]]
    inexact = seconds(lambda: fitted.append(fit_pca(single, COMPRESS)))
    double = single.double()
    del single
    plain = seconds(lambda: fitted.append(fit_pca(double, COMPRESS)))
    return Row(
        "PCA at window 1 from token counts, against scikit-learn in float64 on 1M tokens, hidden 1024",
        plain / fast["counts"],
        20,
        True,
        {"scikit-learn": plain, "scikit-learn in float32": inexact, **fast},
        {
            "largest_principal_angle": angle(fitted[0], fitted[-1]),
            "largest_principal_angle_of_float32": angle(fitted[-2], fitted[-1]),
            "peak_memory_at_4M_tokens_over_1M": growth("fit_tokens", TOKENS, 4 * TOKENS),
        },
    )


def from_windows() -> Row:
    """PCA of windows."""
    vectors, rows = token_windows(base_lm(), prompts(PROMPTS), WINDOW)
    rows = rows[:WINDOWS]
    windows = vectors[rows].flatten(1)
    fitted: dict[str, PCA] = {}

    def ours() -> None:
        fitted["counts"] = PCA.fit(vectors, COMPRESS, rows)

    def plain() -> None:
        fitted["scikit-learn"] = fit_pca(windows, COMPRESS)

    times = interleaved({"scikit-learn": plain, "counts": ours}, 1)
    return Row(
        "PCA at window 16, vector_dim 4096, 100k windows, against scikit-learn's fastest exact solver",
        times["scikit-learn"] / times["counts"],
        2,
        True,
        times,
        {
            "windows": len(rows),
            "distinct_tokens": len(vectors),
            "largest_principal_angle": angle(fitted["counts"], fitted["scikit-learn"]),
            "peak_memory_at_400k_windows_over_20k": growth("fit_windows", 2, 40),
        },
    )


def angle(a: PCA, b: PCA) -> float:
    """Largest principal angle between the subspaces of two fits, in radians."""
    return float(subspace_angles(a.components.double().numpy().T, b.components.double().numpy().T).max())
