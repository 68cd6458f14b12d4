"""Cache for results that depend on a base model alone: converted weights, results of the probe."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/narrowband`, by default `~/.cache/narrowband`.

    It belongs to the user, not to the workspace: `dvc exp run --temp` and queue workers run in copies without Git-ignored
    files, and each would convert a model of gigabytes again.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "narrowband"
