"""Checking the machine's GPU memory and disk before anything is downloaded or trained."""

import shutil
from pathlib import Path

import torch
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from narrowband.lm.base_model import locate
from narrowband.lm.cache import cache_folder
from narrowband.lm.gguf import converted_folder, find_gguf
from narrowband.params import InputError, Needs

GIB = 2**30


def check_needs(base_model: str, needs: Needs) -> None:
    """Check GPU memory, and free disk for downloads; files of the model that exist already count as free space.

    Raises:
        InputError: there is too little of one of them.
    """
    memory = torch.cuda.get_device_properties(0).total_memory / GIB if torch.cuda.is_available() else 0
    if memory < needs.gpu_memory:
        found = f"has {memory:.0f}" if memory else "has no GPU"
        raise InputError(
            f"base_model {base_model} needs a GPU with {needs.gpu_memory:g} GiB of memory, but this machine {found}; use another "
            "profile (narrowband profile list), or lower needs.gpu_memory"
        )
    cache, model, setting = _kept(base_model)
    downloaded = sum(file.stat().st_size for file in model.rglob("*") if file.is_file() and not file.is_symlink())
    disk = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = (shutil.disk_usage(disk).free + downloaded) / GIB
    if free < needs.disk:
        raise InputError(
            f"base_model {base_model} needs {needs.disk:g} GiB of disk, {free:.1f} are free at {disk}; make room, or set "
            f"{setting} to another disk"
        )


def _kept(base_model: str) -> tuple[Path, Path, str]:
    """The cache that a base model is downloaded or converted to, its folder there, and the variable that sets the cache."""
    if file := find_gguf(base_model):
        return cache_folder(), converted_folder(file), "XDG_CACHE_HOME"
    name, _ = locate(base_model)
    cache = Path(constants.HF_HUB_CACHE)
    folder = Path(name) if Path(name).is_dir() else cache / repo_folder_name(repo_id=name, repo_type="model")
    return cache, folder, "HF_HOME"
