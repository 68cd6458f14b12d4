"""Artifacts and checkpoints that are damaged, or were made for something else, are refused with a sentence."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from making import codec_of
from torch import nn

from narrowband.codec.codec import Codec, require_match
from narrowband.codec.config import CodecConfig, geometry_of
from narrowband.codec.pca import PCA
from narrowband.params import InputError, Params
from narrowband.runtime.artifacts import checked, read_config, write_config
from narrowband.runtime.files import write_tensors
from narrowband.training.checkpoint import Checkpoint, Progress

HIDDEN = 8


@pytest.fixture
def small(params: Params, tiny_model: Path) -> Params:
    return params.model_copy(update={"base_model": str(tiny_model), "window": 2, "compress_dim": 5})


@pytest.fixture
def pca() -> PCA:
    return PCA.fit(torch.randn(60, 2 * HIDDEN, generator=torch.Generator().manual_seed(2)), 5)


@pytest.fixture
def folder(small: Params, pca: PCA, tmp_path: Path) -> Path:
    """A PCA and an adapter."""
    assert geometry_of(small) == CodecConfig.of(small).geometry
    pca.save(tmp_path / "pca", geometry_of(small))
    codec_of(pca, small).save(tmp_path / "phase1", {})
    return tmp_path


def load(folder: Path, params: Params) -> Codec:
    config = CodecConfig.of(params)
    return Codec.load(require_match(folder / "phase1", config, PCA.load(folder / "pca", config.geometry)))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as refusal:
        call()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize(
    "name", ["pca/config.json", "pca/pca.safetensors", "phase1/config.json", "phase1/adapter.safetensors"]
)
def test_a_flipped_bit_anywhere_is_refused(name: str, folder: Path, small: Params) -> None:
    load(folder, small)
    path = folder / name
    content = path.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 100)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert str(folder) in refused(lambda: load(folder, small))


@pytest.mark.parametrize("size", [0, 7, 300, -2])
@pytest.mark.parametrize("name", ["pca/pca.safetensors", "phase1/adapter.safetensors", "phase1/config.json"])
def test_a_file_cut_short_is_refused(name: str, size: int, folder: Path, small: Params) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:size])
    assert "run dvc repro" in refused(lambda: load(folder, small))


@pytest.mark.parametrize("name", ["pca/config.json", "pca/pca.safetensors", "phase1/adapter.safetensors"])
def test_a_file_that_is_not_there_is_named(name: str, folder: Path, small: Params) -> None:
    (folder / name).unlink()
    assert name.split("/")[1] in refused(lambda: load(folder, small))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"window": 1}, "pca was made with window 2, not 1; run dvc repro"),
        ({"compress_dim": 4}, "pca was made with compress_dim 5, not 4; run dvc repro"),
        ({"magnitude": "calibrated"}, "phase1 was made with magnitude none, not calibrated; run dvc repro"),
    ],
)
def test_an_artifact_made_with_other_parameters_is_refused(
    change: dict[str, object], sentence: str, folder: Path, small: Params
) -> None:
    assert sentence in refused(lambda: load(folder, small.model_copy(update=change)))


def test_an_adapter_of_another_kind_or_pca_is_refused(folder: Path, small: Params) -> None:
    layernorm = small.model_copy(update={"adapter": small.adapter.model_copy(update={"kind": "layernorm"})})
    assert "made with adapter {'kind': 'residual'" in refused(lambda: load(folder, layernorm))
    other = PCA.fit(torch.randn(60, 2 * HIDDEN, generator=torch.Generator().manual_seed(3)), 5)
    assert "made with pca " in refused(lambda: require_match(folder / "phase1", CodecConfig.of(small), other))


def test_an_artifact_of_another_base_model_is_refused_and_of_the_same_elsewhere_is_not(
    folder: Path, small: Params, tmp_path: Path
) -> None:
    moved = shutil.copytree(small.base_model, tmp_path / "moved")
    load(folder, small.model_copy(update={"base_model": str(moved)}))
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    sentence = refused(lambda: load(folder, small.model_copy(update={"base_model": str(moved)})))
    assert "pca was made with base_model_revision sha256:" in sentence


def test_a_stranger_in_the_folder_is_refused_and_a_config_of_no_object_too(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    write_config(tmp_path, {"seed": 1})
    assert checked(tmp_path / "a.json") and read_config(tmp_path, {"seed": 1})["seed"] == 1
    (tmp_path / "b.json").write_text("{}")
    assert "b.json is not the file that was written" in refused(lambda: checked(tmp_path / "b.json"))
    (tmp_path / "config.json").write_text("[1]")
    assert "is damaged" in refused(lambda: read_config(tmp_path))


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    path = tmp_path / "state.safetensors"
    checkpoint = Checkpoint(path, "run", module, [torch.optim.AdamW(module.parameters())])
    checkpoint.save(Progress(step=3), {"weight": torch.ones(2)})
    assert checkpoint.load()[0].step == 3
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert "delete it to start over" in refused(checkpoint.load)
    path.write_bytes(content[:-1])
    assert "is damaged" in refused(checkpoint.load)


def test_what_a_killed_write_left_behind_is_gone_after_the_next_one(tmp_path: Path) -> None:
    killed, running = (tmp_path / f".x.safetensors.{process}.tmp" for process in (2**22 + 1, os.getppid()))
    for folder in (killed, running):
        folder.mkdir()
        (folder / ".tmpAbCdEf").write_bytes(b"half")  # safetensors writes to a file of such a name first
    write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2)})
    assert {path.name for path in tmp_path.iterdir()} == {"x.safetensors", running.name}
