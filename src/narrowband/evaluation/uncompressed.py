"""The uncompressed model's answers to the test questions, computed once for all codecs."""

from collections.abc import Mapping, Sequence
from typing import Any

from narrowband.data.squad import Example
from narrowband.evaluation.answer import Evaluated
from narrowband.evaluation.scoring import score_all
from narrowband.runtime import paths
from narrowband.runtime.artifacts import checked, read_config, write_config
from narrowband.runtime.files import read_json, write_json

FILE = "answers.json"


def write_uncompressed(found: Evaluated, made_with: Mapping[str, Any]) -> None:
    """Write answers, and what they were `made_with`."""
    kept = {"predictions": found.predictions, "truncated_share": found.truncated_share, "form": found.form}
    write_json(paths.UNCOMPRESSED / FILE, kept)
    write_config(paths.UNCOMPRESSED, made_with)


def read_uncompressed(examples: Sequence[Example], made_with: Mapping[str, Any]) -> Evaluated:
    """The answers that `write_uncompressed` wrote, scored.

    Raises:
        InputError: they are missing, were changed, or were made with other settings.
    """
    read_config(paths.UNCOMPRESSED, made_with)
    kept = read_json(checked(paths.UNCOMPRESSED / FILE))
    scores = score_all(kept["predictions"], examples)
    return Evaluated(kept["predictions"], scores, {}, 0.0, kept["truncated_share"], kept["form"], {})
