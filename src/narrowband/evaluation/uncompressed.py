"""The uncompressed model's answers, computed once for all codecs: to test questions, and to those that training is validated on."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from narrowband.data.squad import Example
from narrowband.evaluation.answer import Evaluated
from narrowband.evaluation.scoring import score_all
from narrowband.runtime import paths
from narrowband.runtime.artifacts import checked, read_config, write_config
from narrowband.runtime.files import read_json, write_json

FILE = "answers.json"

Split = Literal["test", "validation"]


def write_uncompressed(split: Split, found: Evaluated, made_with: Mapping[str, Any]) -> None:
    """Write `answers.json` to the folder of `split`, and `made_with` to `config.json` beside it."""
    kept = {"predictions": found.predictions, "truncated_share": found.truncated_share, "form": found.form}
    write_json(paths.UNCOMPRESSED / split / FILE, kept)
    write_config(paths.UNCOMPRESSED / split, made_with)


def read_uncompressed(split: Split, examples: Sequence[Example], made_with: Mapping[str, Any]) -> Evaluated:
    """The answers that `write_uncompressed` wrote, scored.

    Raises:
        InputError: they are missing, were changed, or were made with other settings.
    """
    read_config(paths.UNCOMPRESSED / split, made_with)
    kept = read_json(checked(paths.UNCOMPRESSED / split / FILE))
    scores = score_all(kept["predictions"], examples)
    return Evaluated(kept["predictions"], scores, {}, 0.0, kept["truncated_share"], kept["form"], {})
