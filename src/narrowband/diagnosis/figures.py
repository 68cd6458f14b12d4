"""The figures behind the verdicts: of reconstructions, of answers, and of two experiments."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from narrowband.codec.codec import Codec
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.squad import Example
from narrowband.diagnosis.reconstructions import ReconstructionFigures, examine
from narrowband.diagnosis.replay import CallPath, Probed, Rescaled, replay, try_scales
from narrowband.evaluation.answer import QuestionAnswerer, QuestionSet, batches_by_length
from narrowband.evaluation.form import faults
from narrowband.evaluation.scoring import Predictions, Scored, normalize, score_all

EXAMINED = 200
"""Test questions whose prompts are reconstructed again."""


@dataclass(frozen=True)
class Diversity:
    """How much the answers differ, as shares of all questions; empty answers never count as the commonest."""

    commonest_prediction: float
    commonest_gold: float
    distinct_predictions: float
    empty_predictions: float


@dataclass(frozen=True)
class Form:
    """Shares of all uncompressed answers that are empty, and that hold a right answer among too many other words."""

    empty: float
    buried: float


@dataclass(frozen=True)
class Figures:
    """Everything known about one compressed system; F1 and EM are of the saved answers to all questions."""

    f1: float
    em: float
    reconstruction: ReconstructionFigures
    diversity: Diversity
    rescaled: Rescaled


@dataclass(frozen=True)
class Diagnosis:
    """Figures of a run, and the norms of the sample's tokens: `original`, and one entry a system."""

    uncompressed_f1: float
    form: Form
    call_path: CallPath
    systems: dict[str, Figures]
    norms: dict[str, Float[Tensor, " n"]]


def diagnose(
    answerer: QuestionAnswerer,
    systems: Mapping[str, Codec | None],
    questions: QuestionSet,
    predictions: Mapping[str, Predictions],
    advance: Callable[[int], None] = lambda n: None,
) -> Diagnosis:
    """Examine every compressed system, from the answers that `evaluate` saved and from a sample of prompts sent again.

    Unless it is known which tokens were coded in training, all count as seen. `advance` is called after each system.
    """
    examples, seed, seen = questions
    prompts = answerer.encode(examples)
    rows = max(batches_by_length(prompts, answerer.batch_size), key=lambda rows: _padding(prompts, rows))
    probed = Probed([examples[i] for i in rows], [prompts[i] for i in rows])
    figures, norms = {}, {}
    for name, codec in systems.items():
        if codec is None:
            continue
        scored = Scored(predictions[name], score_all(predictions[name], examples))
        reconstruction, norms["original"], norms[name] = examine(
            answerer.lm, codec, prompts[:EXAMINED], answerer.batch_size, seen
        )
        figures[name] = Figures(
            scored.f1,
            scored.em,
            reconstruction,
            diversity(list(predictions[name].values()), examples),
            try_scales(answerer, codec, probed, predictions[name], seed),
        )
        advance(1)
    uncompressed = predictions["uncompressed"]
    return Diagnosis(
        Scored(uncompressed, score_all(uncompressed, examples)).f1,
        Form(*faults(uncompressed, examples)),
        replay(answerer, probed, uncompressed, seed),
        figures,
        norms,
    )


def _padding(prompts: Sequence[EncodedPrompt], rows: Sequence[int]) -> int:
    lengths = [len(prompts[i].ids) for i in rows]
    return sum(max(lengths) - length for length in lengths)


def diversity(predictions: Sequence[str], examples: Sequence[Example]) -> Diversity:
    """How alike `predictions` are, beside how alike the first gold answers are."""
    found = Counter(normalize(text) for text in predictions)
    empty = found.pop("", 0)
    golds = Counter(normalize(example.golds[0]) for example in examples)
    return Diversity(
        max(found.values(), default=0) / len(predictions),
        max(golds.values()) / len(examples),
        len(found) / len(predictions),
        empty / len(predictions),
    )
