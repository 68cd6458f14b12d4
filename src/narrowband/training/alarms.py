"""Signs that a run is going wrong, reported at evaluations during training and not only by the diagnosis afterwards."""

from collections import Counter
from collections.abc import Sequence

from narrowband.data.squad import Example
from narrowband.evaluation.answer import Evaluated
from narrowband.evaluation.form import ALIKE
from narrowband.evaluation.scoring import normalize

LONGEST, SHORTEST = 3.0, 1 / 3  # norm ratios


def alarms(result: Evaluated, examples: Sequence[Example], phase: str) -> list[str]:
    """A sentence with what to change for collapsed predictions, and for embeddings that are far too long or short.

    Predictions have collapsed if the commonest is that of more than half the questions, and twice as common as any gold answer;
    that a question is unanswerable is no answer.
    """
    found = []
    predictions = Counter(normalize(text) for text in result.predictions.values())
    golds = Counter(normalize(example.golds[0]) for example in examples)
    del golds[""]
    ((text, count),) = predictions.most_common(1)
    if count > max(ALIKE * len(examples), 2 * max(golds.values(), default=0)):
        found.append(
            f"{count} of {len(examples)} predictions are {text!r}; lower {phase}.lr, or send more (compress_dim, "
            "latent_bits)"
        )
    ratio = result.quality["norm_ratio"]
    if not SHORTEST <= ratio <= LONGEST:
        found.append(
            f"reconstructed embeddings are {ratio:.3g} times as long as the originals; set magnitude to token or "
            f"calibrated, or lower {phase}.lr"
        )
    return found
