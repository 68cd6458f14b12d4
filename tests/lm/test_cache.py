"""Hashes of large files, kept in the user's cache; each expected one is computed anew with hashlib."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from narrowband.lm import cache
from narrowband.lm.cache import SMALL, cache_folder, file_sha256
from narrowband.lm.model_revision import model_revision


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder() / "sha256"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model" / "model.safetensors"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(66 << 20)
    return path


def overwrite(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"x")


def expected(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def as_another_process(path: Path) -> str:
    cache._recorded.cache_clear()
    return file_sha256(path)


@pytest.mark.parametrize("place", [0, 33 << 20, (66 << 20) - 1, 66 << 20])
def test_a_changed_byte_of_a_large_file_changes_the_revision(weights: Path, place: int) -> None:
    before = model_revision(str(weights.parent))
    assert model_revision(str(weights.parent)) == before
    stamp = weights.stat()
    overwrite(weights, place)
    os.utime(weights, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as a copy that keeps times has it
    assert model_revision(str(weights.parent)) != before
    assert file_sha256(weights) == expected(weights)


def test_a_file_counts_whatever_the_case_of_its_ending(tmp_path: Path) -> None:
    found = set()
    for content in ("a", "b"):
        (tmp_path / "Model.GGUF").write_text(content)
        found.add(model_revision(str(tmp_path)))
    assert len(found) == 2


def test_a_large_file_is_read_once(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = file_sha256(weights)
    assert first == expected(weights)
    monkeypatch.setattr(cache, "sha256", lambda *args: pytest.fail("read again"))
    assert as_another_process(weights) == first


def test_a_file_of_the_small_size_leaves_nothing_in_the_cache(weights: Path, folder: Path) -> None:
    os.truncate(weights, SMALL)
    assert file_sha256(weights) == expected(weights)
    assert not folder.exists()
    os.truncate(weights, SMALL + 1)
    assert file_sha256(weights) == expected(weights)
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record.write_text(""),
        lambda record: record.write_text("[]"),
        lambda record: record.write_text("[" * 100_000),
        lambda record: record.write_bytes(b"\xff"),
        lambda record: record.write_text(record.read_text().replace('"sha256": "', '"sha256": "0')),
        lambda record: (record.unlink(), record.mkdir()),
    ],
    ids=["empty", "list", "deep", "not UTF-8", "changed", "folder"],
)
def test_a_damaged_record_is_ignored(weights: Path, folder: Path, damage: Callable[[Path], object]) -> None:
    file_sha256(weights)
    damage(*folder.iterdir())
    assert as_another_process(weights) == expected(weights)


def test_a_cache_that_can_not_be_written_to_changes_no_hash(weights: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    assert file_sha256(weights) == expected(weights)


def test_processes_that_hash_the_same_file_at_once_agree(weights: Path, folder: Path) -> None:
    os.truncate(weights, SMALL + 1)
    code = f"""
import sys
from pathlib import Path
from narrowband.lm.cache import _recorded, file_sha256
for _ in range(20):
    for record in Path({str(folder)!r}).glob("*.json"):
        record.unlink(missing_ok=True)
    _recorded.cache_clear()
    found = file_sha256(Path({str(weights)!r}))
    assert found == {expected(weights)!r}
assert "torch" not in sys.modules
"""
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert as_another_process(weights) == expected(weights)
