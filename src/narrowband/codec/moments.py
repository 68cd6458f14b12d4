"""Mean and covariance of windows of vectors, from how often two of them stand at two places."""

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
    """Mean and covariance, with `count - 1` below, of windows that are given as rows of `vectors`; in float64.

    No window is ever put together. The products of what stands at place i with what stands at place j are those of the
    distinct vectors, weighted by how often the two stand there: as much work as there are distinct vectors and pairs,
    whatever the number of windows, of which only the rows are in memory. `advance` hears of each pair of places.

    Products of centred vectors, in the vectors' own precision, lose no digits to a large mean.
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
