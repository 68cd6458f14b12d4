"""Restores the workspace to the last commit, after an experiment in it was refused or failed."""

from pathlib import Path

from narrowband.experiments.queue import output_of, run_dvc
from narrowband.params import PARAMS_FILE, InputError
from narrowband.runtime import paths

CHANGED = (PARAMS_FILE, Path("dvc.lock"), paths.METRICS, paths.RESULTS)
"""The files tracked by Git that an experiment changes."""


def restore() -> None:
    """Restore parameters, `dvc.lock`, metrics and results from Git, and all outputs from DVC's cache.

    Each file is removed first: after `dvc exp run`, Git may consider a changed file unchanged, and would not restore it.

    Raises:
        InputError: there is no commit here, or the cache lacks an output of it.
    """
    listed = _git("ls-tree", "-r", "-z", "--name-only", "HEAD", "--", *map(str, CHANGED))
    tracked = listed.rstrip("\0").split("\0")
    for name in tracked:
        Path(name).unlink(missing_ok=True)
    _git("checkout", "--quiet", "HEAD", "--", *tracked)
    try:
        run_dvc("checkout", "--force")
    except InputError as error:
        raise InputError(
            "parameters and metrics are back, but not all outputs: DVC's cache lacks some, maybe because dvc repro has never run "
            f"at this commit ({error}); run dvc repro"
        ) from None


def _git(*arguments: str) -> str:
    return output_of(["git", *arguments], f"git {arguments[0]}", "run this in a clone of the project")
