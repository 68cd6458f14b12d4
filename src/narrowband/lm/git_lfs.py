"""Pointers of Git LFS: small text files that stand for large ones until these are downloaded."""

from pathlib import Path

IS_POINTER = "is a Git LFS pointer; run git lfs pull"
"""The end of an error message that begins with the file's name."""

_START = b"version https://git-lfs"


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file begins as pointers do, in the first line of their format."""
    with path.open("rb") as file:
        return file.read(len(_START)) == _START
