import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants

from narrowband.lm.needs import GIB, check_needs
from narrowband.params import InputError, Needs

LLAMA = "meta-llama/Llama-3.1-8B"


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """One GiB of free disk, and an empty cache of the hub at the path returned."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(("memory", "said"), [(None, "this machine has no GPU"), (24 * GIB, "this machine has 24")])
def test_too_little_gpu_memory_is_refused(
    free: Path, monkeypatch: pytest.MonkeyPatch, memory: int | None, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: memory is not None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=memory))
    with pytest.raises(InputError, match=f"{LLAMA} needs a GPU with 40 GiB of memory, but {said}; use another profile"):
        check_needs(LLAMA, Needs(gpu_memory=40, disk=0))
    check_needs(LLAMA, Needs(gpu_memory=0 if memory is None else 24, disk=0))


def test_too_little_disk_is_refused_unless_the_download_is_already_there(free: Path) -> None:
    needs = Needs(gpu_memory=0, disk=1 + 1000 / GIB)
    with pytest.raises(InputError, match=r"needs 1 GiB of disk, 1\.0 are free at /.*; make room"):
        check_needs(LLAMA, needs)
    blobs = free / "models--meta-llama--Llama-3.1-8B" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "weights").write_bytes(b"0" * 1000)
    check_needs(LLAMA, needs)
    check_needs(f"{LLAMA}@main", needs)


def test_room_for_a_gguf_file_is_looked_for_before_it_is_converted(
    free: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"needs 2 GiB of disk, .* set XDG_CACHE_HOME to another disk"):
        check_needs(str(file), Needs(gpu_memory=0, disk=2))
    check_needs(str(file), Needs(gpu_memory=0, disk=1))
    assert not (tmp_path / "cache").exists()
