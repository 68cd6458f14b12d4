"""PCA from token counts and from a stream of windows, against scikit-learn on the whole matrix."""

from collections.abc import Iterator

import torch
from scipy.linalg import subspace_angles
from torch import Tensor

from benchmarks.measure import Row, in_child, interleaved, seconds
from benchmarks.reference import fit_pca
from narrowband.codec.pca import PCA

COMPRESS = 256

VOCABULARY, HIDDEN, TOKENS = 32_000, 1024, 1_000_000
"""A word-piece vocabulary; token `r` has a frequency of 1 / r (Zipf 1949)."""

WINDOWS, VECTOR, BATCH = 100_000, 4096, 2000


def spectrum(n: int, width: int, seed: int) -> Tensor:
    """Vectors [n, width] in correlated directions, whose standard deviations fall by e over a quarter of the width."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.exp(-4 * torch.arange(width) / width)
    return torch.randn(n, width, generator=generator) * scales + 0.1


def zipf_counts(tokens: int) -> tuple[Tensor, Tensor]:
    """Ids that occur among `tokens` draws, and how often, drawn a chunk at a time."""
    generator = torch.Generator().manual_seed(0)
    frequencies = 1 / torch.arange(1, VOCABULARY + 1, dtype=torch.float64)
    counts = torch.zeros(VOCABULARY, dtype=torch.long)
    for start in range(0, tokens, 100_000):
        drawn = torch.multinomial(frequencies, min(100_000, tokens - start), replacement=True, generator=generator)
        counts += drawn.bincount(minlength=VOCABULARY)
    ids = counts.nonzero().flatten()
    return ids, counts[ids]


def fit_counts(tokens: int) -> None:
    """Fit from the counts of `tokens` tokens."""
    ids, counts = zipf_counts(tokens)
    PCA.fit_counted(spectrum(VOCABULARY, HIDDEN, 1)[ids], counts, COMPRESS)


def stream(windows: int) -> Iterator[Tensor]:
    """`windows` windows, a batch at a time."""
    for start in range(0, windows, BATCH):
        yield spectrum(min(BATCH, windows - start), VECTOR, start)


def fit_stream(windows: int) -> None:
    """Fit to a stream of `windows` windows."""
    PCA.fit(stream(windows), COMPRESS)


def growth(function: str, few: int, many: int) -> float:
    """Peak memory of a fit to `many` over that of a fit to `few`."""
    peaks = [in_child("benchmarks.pca", function, n)["peak_bytes"] for n in (few, many)]
    return peaks[1] / peaks[0]


def from_counts() -> Row:
    """PCA of single tokens."""
    ids, counts = zipf_counts(TOKENS)
    table = spectrum(VOCABULARY, HIDDEN, 1)[ids]
    fitted = []
    fast = interleaved({"counts": lambda: fitted.append(PCA.fit_counted(table, counts, COMPRESS))}, 3)
    expanded = table.repeat_interleave(counts, 0)
    plain = seconds(lambda: fitted.append(fit_pca(expanded, COMPRESS)))
    return Row(
        "PCA at window 1 from token counts, against scikit-learn on 1M tokens, hidden 1024",
        plain / fast["counts"],
        20,
        True,
        {"scikit-learn": plain, **fast},
        {
            "largest_principal_angle": angle(fitted[0], fitted[-1]),
            "distinct_tokens": len(ids),
            "peak_memory_at_4M_tokens_over_1M": growth("fit_counts", TOKENS, 4 * TOKENS),
        },
    )


def from_windows() -> Row:
    """PCA of windows."""
    windows = torch.cat(list(stream(WINDOWS)))
    fitted: dict[str, PCA] = {}

    def ours() -> None:
        fitted["streaming"] = PCA.fit(windows.split(BATCH), COMPRESS)

    def plain() -> None:
        fitted["scikit-learn"] = fit_pca(windows, COMPRESS)

    times = interleaved({"scikit-learn": plain, "streaming": ours}, 1)
    return Row(
        "PCA at window 16, vector_dim 4096, 100k windows, against scikit-learn's fastest exact solver",
        times["scikit-learn"] / times["streaming"],
        2,
        True,
        times,
        {
            "largest_principal_angle": angle(fitted["streaming"], fitted["scikit-learn"]),
            "peak_memory_at_40k_windows_over_10k": growth("fit_stream", 10_000, 40_000),
        },
    )


def angle(a: PCA, b: PCA) -> float:
    """Largest principal angle between the subspaces of two fits, in radians."""
    return float(subspace_angles(a.components.double().numpy().T, b.components.double().numpy().T).max())
