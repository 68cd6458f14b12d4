"""`manifest.json` and a data card: where the records come from (libraries, model, parameters, checksums), and their counts."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from narrowband.runtime.artifacts import MANIFEST, sha256, write_sealed
from narrowband.runtime.files import write_text

LIBRARIES = ("datasets", "datasketch", "rapidfuzz", "tokenizers", "torch", "transformers")
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

{records} records that `{name}` (`{revision}`) wrote as a plain language model: no chat template, no role words, no special
tokens but BOS where `bos` says so. `load_dataset` of this folder gives the records; its `rejected` configuration gives what was
not kept, and why.

| field | meaning |
| --- | --- |
| `instruction`, `instruction_type`, `category` | what was asked, in which form, about what |
| `instruction_source` | who asked it: the pool, a training question on its passage (`reading`), or the model itself |
| `prompt` | exactly the text that was fed: the examples in `few_shot_ids`, if any, then the instruction |
| `bos` | the token fed before that text, or null |
| `completion` | exactly the text that came back |
| `response` | the completion up to its first stop string, stripped |
| `formatted_text` | instruction in its completion form without examples, then the response: the text to train on |
| `critic` | `log P(good) - log P(bad)` in nats by the same model: of the instruction, and of the pair |
| `sampling`, `seed`, `finish_reason`, `backend`, `prompt_style`, `model` | how it was drawn, why it ended, and who wrote it |
| `reason` | in `rejected.jsonl`: why it is no record |

The answers were not checked for truth: a small base model says wrong things fluently. No record shares eight words in a row with
the QA test split; in scripts that put no spaces between words, each character counts as half a word. `manifest.json` has the
libraries, parameters, counts and checksums behind these files, and a fingerprint of the code and inputs; the commit is that of the
`dvc.lock` which holds this folder's hash.
"""


def write_provenance(folder: Path, content: Mapping[str, Any], pools: Sequence[Path], records: int) -> None:
    """Write `manifest.json` and the data card `README.md` beside the records in `folder`.

    `content` holds at least `model` (`name`, `revision`), `backend` and `fingerprint`, that of the stage (the same in every clone,
    unlike a commit); `pools` are the files that prompts came from.
    """
    files = [folder / "train.jsonl", folder / "rejected.jsonl"]
    libraries = [*LIBRARIES, *(["vllm"] if content["backend"] == "vllm" else [])]
    write_sealed(
        folder / MANIFEST,
        {
            "libraries": {
                "python": ".".join(platform.python_version_tuple()[:2]),
                **{name: version(name) for name in libraries},
            },
            **content,
            "sha256": {**{file.name: sha256(file) for file in files}, **{str(pool): sha256(pool) for pool in pools}},
        },
    )
    write_text(folder / "README.md", CARD.format(records=records, **content["model"]))
