"""Mixed precision: on where the CPU multiplies bfloat16 itself, and close to float32."""

import pytest
import torch
from torch import nn

from narrowband.lm import device
from narrowband.lm.device import mixed_precision, multiplies_in_bfloat16, native_bfloat16


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({}, False),
        ({"avx2": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
    ],
)
def test_mixed_precision_is_on_only_where_the_cpu_has_it(
    capabilities: dict[str, bool], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert native_bfloat16() is native
    with mixed_precision():
        product = torch.ones(4, 4) @ torch.ones(4, 4)
    assert product.dtype is (torch.bfloat16 if native else torch.float32)
    assert (torch.ones(4, 4) @ torch.ones(4, 4)).dtype is torch.float32


def test_on_a_gpu_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(device, "best_device", lambda: torch.device("cuda"))
    assert not multiplies_in_bfloat16()
    with mixed_precision():
        assert (torch.ones(4, 4) @ torch.ones(4, 4)).dtype is torch.float32


def test_gradients_in_mixed_precision_are_float32_and_point_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
    inputs, targets = torch.randn(2, 100, 64)
    found = []
    for gradients_of in (lambda: module(inputs), lambda: _mixed(module, inputs)):
        module.zero_grad()
        nn.functional.mse_loss(gradients_of(), targets).backward()
        found.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))
    exact, mixed = found
    assert mixed.dtype is torch.float32 and not torch.equal(exact, mixed)
    assert nn.functional.cosine_similarity(exact, mixed, dim=0) > 0.999


def _mixed(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with mixed_precision():
        found: torch.Tensor = module(inputs)
        return found
