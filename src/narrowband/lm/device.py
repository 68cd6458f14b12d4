"""Where a base model runs, and in which precision."""

from contextlib import AbstractContextManager

import torch


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def best_dtype() -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU, where bfloat16 products can be 300 times slower."""
    return torch.bfloat16 if best_device().type == "cuda" else torch.float32


def native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself (AVX-512 BF16 or AMX), which is twice as fast as float32 or better."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def multiplies_in_bfloat16() -> bool:
    """Whether `mixed_precision` changes anything here."""
    return best_device().type == "cpu" and native_bfloat16()


def mixed_precision() -> AbstractContextManager[object]:
    """Matrix products of a training step in bfloat16 on a CPU that has them, everything else in float32.

    Without them, and on a GPU, where the base model is in bfloat16 anyway, nothing changes. While it lasts, bfloat16 copies of the
    weights that were used are kept.
    """
    return torch.autocast("cpu", torch.bfloat16, enabled=multiplies_in_bfloat16())
