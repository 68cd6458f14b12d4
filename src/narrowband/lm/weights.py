"""Detects weights that can't be read: quantised without the library for it, Git LFS pointers, missing parts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AutoHfQuantizer

from narrowband.lm.device import best_device, best_dtype
from narrowband.lm.git_lfs import IS_POINTER, is_lfs_pointer
from narrowband.params import InputError, first_line

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def check_quantization(base_model: str, config: Mapping[str, Any]) -> None:
    """Check that weights, if they are quantised, can be read on this machine.

    Raises:
        InputError: `quantization_config` is invalid, or a library or device that it needs is missing.
    """
    settings = config.get("quantization_config")
    if settings is None:
        return
    if not isinstance(settings, dict) or _method(settings) not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        kind = repr(settings.get("quant_method")) if isinstance(settings, dict) else repr(settings)
        raise InputError(
            f"base_model {base_model} has {kind} as its quantization_config, which is not known; give the model without "
            "quantisation, or correct its config.json"
        )
    try:
        quantizer = AutoHfQuantizer.from_config(dict(settings), pre_quantized=True)
        quantizer.validate_environment(dtype=best_dtype(), device_map={"": best_device()}, weights_only=True)
    except Exception as error:  # any exception, from many libraries
        raise InputError(
            f"base_model {base_model} is quantised ({_method(settings)}) and can't be read here: {first_line(error)}; install "
            "what is missing, or give the model without quantisation"
        ) from None


def _method(settings: Mapping[str, Any]) -> str:
    bits = next((bits for bits in ("4bit", "8bit") if settings.get(f"load_in_{bits}")), "")
    return f"bitsandbytes_{bits}" if bits else str(settings.get("quant_method"))


def check_files(base_model: str, folder: Path) -> None:
    """Open each file of weights in `folder`, without reading the tensors.

    Raises:
        InputError: a file is missing, truncated, or a Git LFS pointer.
    """
    parts = [WHOLE] if (folder / WHOLE).exists() else _parts(base_model, folder / INDEX)
    for name in parts:
        path = folder / name
        if not path.is_file():
            raise InputError(
                f"base_model {base_model} lacks {name}, one of the {len(parts)} parts of its weights; download it again"
            )
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError as error:
            raise InputError(f"base_model {base_model} can't be loaded: its {name} {_fault(path, error)}") from None


def _parts(base_model: str, index: Path) -> list[str]:
    try:
        return sorted({Path(name).name for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (ValueError, LookupError, TypeError, AttributeError):
        what = IS_POINTER if is_lfs_pointer(index) else "does not name its parts; download it again"
        raise InputError(f"base_model {base_model} can't be loaded: its {INDEX} {what}") from None


def _fault(path: Path, error: SafetensorError) -> str:
    return IS_POINTER if is_lfs_pointer(path) else f"is damaged ({first_line(error)}); download it again"
