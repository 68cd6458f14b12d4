"""Where records come from: code, libraries, model, parameters and checksums, for programs and for readers."""

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from narrowband.params import Params
from narrowband.runtime.artifacts import MANIFEST, sha256, write_sealed
from narrowband.runtime.files import write_text

LIBRARIES = ("datasets", "datasketch", "rapidfuzz", "tokenizers", "torch", "transformers")
INPUTS = ("src", "stages", "pools", "models", "params.yaml", "dvc.yaml")
"""What the dirty flag is about; a run itself changes metrics and dvc.lock."""

CARD = """\
---
configs:
- config_name: default
  data_files:
  - split: train
    path: train.jsonl
- config_name: rejected
  data_files:
  - split: train
    path: rejected.jsonl
---
# Instruction data written by a base model

{records} records that `{name}` (`{revision}`) wrote as a plain language model: no chat template, no special tokens, no role
words. `load_dataset` of this folder gives the records; its `rejected` configuration gives what was not kept, and why.

| field | meaning |
| --- | --- |
| `instruction`, `instruction_type`, `category` | what was asked, in which form, about what |
| `instruction_source` | who asked it: the pool, a training question on its passage (`reading`), or the model itself |
| `prompt` | exactly the text that was fed: the examples in `few_shot_ids`, if any, then the instruction |
| `completion` | exactly the text that came back |
| `response` | the completion up to its first stop string, stripped |
| `formatted_text` | instruction in its completion form without examples, then the response: the text to train on |
| `critic` | log-probability margins, in nats, of "good" over "bad" by the same model: of the instruction, and of the pair |
| `sampling`, `seed`, `finish_reason`, `backend`, `prompt_style`, `model` | how it was drawn, why it ended, and who wrote it |
| `reason` | in `rejected.jsonl`: why it is no record |

Nothing here is known to be true: a small base model says wrong things fluently. No record shares eight words in a row with the
QA test split. `manifest.json` has the code, libraries, parameters, counts and checksums behind these files.
"""


def git_state() -> dict[str, Any]:
    """The commit, and whether what data depend on was changed since; both unknown outside a repository."""

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *INPUTS))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def write_provenance(folder: Path, params: Params, revision: str, extra: Mapping[str, Any]) -> None:
    """Write `manifest.json` and the data set's card `README.md` beside the records in `folder`."""
    parameters = params.model_dump(include={"seed", "base_model", "dataset", "prompt", "generation", "data"})
    pools = [Path(params.data.few_shot_pool), Path(params.data.instruction_pool)]
    files = [folder / "train.jsonl", folder / "rejected.jsonl"]
    libraries = [*LIBRARIES, *(["vllm"] if params.generation.backend == "vllm" else [])]
    write_sealed(
        folder / MANIFEST,
        {
            "git": git_state(),
            "libraries": {"python": platform.python_version(), **{name: version(name) for name in libraries}},
            "model": {"name": params.base_model, "revision": revision},
            "parameters": parameters,
            **extra,
            "sha256": {path.name: sha256([path]) for path in [*files, *pools]},
        },
    )
    records = params.data.sft_records
    write_text(folder / "README.md", CARD.format(records=records, name=params.base_model, revision=revision))
