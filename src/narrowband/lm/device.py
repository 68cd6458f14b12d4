"""Where a base model runs, and in which precision."""

import torch


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def best_dtype() -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU, where bfloat16 products can be 300 times slower."""
    return torch.bfloat16 if best_device().type == "cuda" else torch.float32
