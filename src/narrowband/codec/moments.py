"""Mean and covariance of windows of vectors: from co-occurrence counts at pairs of places, or summed batch by batch."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor


def window_moments(
    vectors: Float[Tensor, "n width"],
    windows: Int[Tensor, "count window"],
    *,
    advance: Callable[[int], None] = lambda n: None,
) -> tuple[Float[Tensor, " vector"], Float[Tensor, "vector vector"]]:
    """Mean and covariance (divided by `count - 1`) of `windows`, given as row indices of `vectors`; in float64.

    Block (i, j) of the covariance is X^T C_ij X: X are the centred vectors, C_ij counts how often each pair of them stands at
    places i and j of a window. So no window is ever materialised, and the work depends on the number of distinct vectors and
    pairs, not of windows. `advance` is called after each pair of places.

    Products are in the vectors' own precision; because the vectors are centred, a large mean costs no digits.
    """
    (n, width), (count, window) = vectors.shape, windows.shape
    places = windows.T.contiguous().numpy()
    times = np.stack([np.bincount(rows, minlength=n) for rows in places])  # [window, n]
    shares = torch.from_numpy(times / count).to(vectors.dtype)
    shift = shares.mean(0) @ vectors  # nearly their mean
    centred = (vectors - shift).numpy()
    products = np.empty((window, width, window, width))
    for i in range(window):
        weighted = np.sqrt(times[i], dtype=centred.dtype)[:, None] * centred
        products[i, :, i] = weighted.T @ weighted
        advance(1)
        for j in range(i + 1, window):
            together = sparse.coo_array((np.ones(count, centred.dtype), (places[i], places[j])), (n, n)).tocsr()
            products[i, :, j] = centred.T @ (together @ centred)
            products[j, :, i] = products[i, :, j].T
            advance(1)
    offset = (shares @ torch.from_numpy(centred)).double()  # [window, width]
    covariance = torch.from_numpy(products).view(window * width, -1)
    covariance.addr_(offset.flatten(), offset.flatten(), alpha=-count).div_(count - 1)
    return (shift + offset).flatten(), covariance


def streamed_moments(
    batches: Iterable[Float[Tensor, "_ vector"]],
) -> tuple[Float[Tensor, " vector"], Float[Tensor, "vector vector"]]:
    """Mean and covariance (divided by their number less 1) of all windows in `batches`, in float64, in one pass.

    Sums are those of differences from the first batch's mean, so that a large mean costs no digits; products are in the
    windows' own precision, and added up in float64.
    """
    count, shift, offset, products = 0, torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0)
    for windows in batches:
        if not count:
            shift = windows.mean(0)
            offset = torch.zeros(len(shift), dtype=torch.float64)
            products = torch.zeros(len(shift), len(shift), dtype=torch.float64)
        centred = windows - shift
        offset += centred.sum(0, dtype=torch.float64)
        products += centred.T @ centred
        count += len(windows)
    offset /= count
    covariance = products.addr_(offset, offset, alpha=-count).div_(count - 1)
    return shift + offset, covariance
