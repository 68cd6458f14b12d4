"""A hash of everything a DVC stage depends on; a checkpoint is resumed only if the hash is the same."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from narrowband.params import PARAMS_FILE, InputError
from narrowband.runtime.artifacts import sha256
from narrowband.runtime.files import read_yaml

DVC_FILE = Path("dvc.yaml")


def stage_fingerprint(stage: str) -> str:
    """SHA-256 of the bytes of the dependencies and the values of the parameters that `dvc.yaml` lists for `stage`.

    All files in a folder count, except those in `__pycache__`.

    Raises:
        InputError: there is no `dvc.yaml` here, or no such stage in it, or a dependency is missing.
    """
    params = read_yaml(PARAMS_FILE)
    try:
        declared = read_yaml(DVC_FILE)["stages"][stage]
    except (OSError, KeyError, yaml.YAMLError):
        raise InputError(f"{DVC_FILE} has no stage {stage} here; run this in the folder that holds it") from None
    digest = hashlib.sha256()
    for name in declared.get("params", []):
        value = params if isinstance(name, dict) else value_of(params, name)
        digest.update(json.dumps([name, value], sort_keys=True).encode())
    for dependency in declared["deps"]:
        path = Path(re.sub(r"\$\{(.+?)\}", lambda match: str(value_of(params, match[1])), dependency))
        for file in _files(path):
            digest.update(str(file).encode())
            digest.update(sha256(file).encode())
    return digest.hexdigest()


def value_of(params: Any, name: str) -> Any:
    """The value of a dotted name in the content of `params.yaml`."""
    for part in name.split("."):
        params = params[part]
    return params


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in sorted(path.rglob("*")) if file.is_file() and "__pycache__" not in file.parts)
    elif path.exists():
        yield path
    else:
        raise InputError(f"{path} is missing; run dvc repro")
