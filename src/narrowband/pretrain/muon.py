"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) with its Newton-Schulz iteration in float32.

`torch.optim.Muon` orthogonalises in bfloat16, which is hundreds of times slower on a CPU without AMX.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

QUINTIC, STEPS = (3.4445, -4.7750, 2.0315), 5  # from the post: fast rather than exact, singular values end up near 1


def orthogonalize(matrix: Tensor) -> Tensor:
    """Approximately U V^T, where `matrix` [rows, cols] = U S V^T: all singular values end up near 1."""
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum whose update of each matrix is orthogonalised; for two-dimensional weights only."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalize(parameter.grad.lerp(momentum, group["momentum"]))
                rows, cols = parameter.shape
                parameter.add_(update, alpha=-group["lr"] * max(1, rows / cols) ** 0.5)
