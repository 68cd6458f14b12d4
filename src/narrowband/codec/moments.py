"""Mean and covariance of windows of vectors, from co-occurrence counts of vectors at pairs of places."""

from collections.abc import Callable

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
