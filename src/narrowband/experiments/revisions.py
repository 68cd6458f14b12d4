"""Results of the workspace, of a Git revision or of a DVC experiment."""

import json
from typing import Any

from narrowband.params import InputError, first_line
from narrowband.runtime.files import read_yaml
from narrowband.runtime.fingerprint import DVC_FILE


def read_json_at(paths: list[str], revision: str | None) -> dict[str, Any]:
    """Read JSON files of the workspace, a Git revision or a DVC experiment; their contents by path.

    Raises:
        InputError: the revision does not exist, or one of the files is missing or damaged.
    """
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import RevError

    where = f"revision {revision}" if revision else "the workspace"
    try:
        return {path: json.loads(dvc.api.read(path, rev=revision)) for path in paths}
    except (DvcException, RevError, OSError, ValueError) as error:
        raise InputError(
            f"no metrics at {where} ({first_line(error)}); name a commit or experiment, or run dvc repro"
        ) from None


def read_metrics(revision: str | None) -> dict[str, Any]:
    """Read all files in metrics/ and results/ that this workspace's `dvc.yaml` declares; their contents by path.

    Raises:
        InputError: see `read_json_at`.
    """
    stages = read_yaml(DVC_FILE)["stages"]
    entries = [entry for stage in stages.values() for kind in ("metrics", "plots") for entry in stage.get(kind, [])]
    names = [name for entry in entries for name in ([entry] if isinstance(entry, str) else entry)]
    return read_json_at([name for name in names if name.startswith(("metrics/", "results/"))], revision)
