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
from narrowband.evaluation.scoring import Predictions, Scored, agreement, agreements, normalize, score_all

EXAMINED = 200
"""Test questions whose prompts are reconstructed again."""


@dataclass(frozen=True)
class Diversity:
    """How much the answers differ, as shares of all questions; empty ones never count as the commonest."""

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
class Gains:
    """What Phase 2, which alone is trained on gold answers, has more of than others: lower ends of paired 95% intervals, in points.

    The excess is the gain in F1 less the gain in agreement.
    """

    f1_over_uncompressed: float
    f1_over_phase1: float
    agreement_over_phase1: float
    excess_over_phase1: float


@dataclass(frozen=True)
class Figures:
    """Everything known about one compressed system; F1, EM and agreement are of the saved answers to all questions."""

    f1: float
    em: float
    agreement: float
    reconstruction: ReconstructionFigures
    diversity: Diversity
    rescaled: Rescaled
    gains: Gains | None  # of Phase 2


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
    batches = batches_by_length(prompts, answerer.batch_size, answerer.alike(examples, prompts))
    rows = max(batches, key=lambda rows: _padding(prompts, rows))
    rows.sort(key=lambda row: len(prompts[row].ids))
    probed = Probed([examples[i] for i in rows], [prompts[i] for i in rows])
    figures, norms, uncompressed = {}, {}, predictions["uncompressed"]
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
            agreement(predictions[name], uncompressed),
            reconstruction,
            diversity(list(predictions[name].values()), examples),
            try_scales(answerer, codec, probed, predictions[name], uncompressed, seed),
            gains(predictions, questions) if name == "phase2" else None,
        )
        advance(1)
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


def gains(predictions: Mapping[str, Predictions], questions: QuestionSet) -> Gains:
    """The gains of `phase2` in `predictions`, which also hold `phase1` and `uncompressed`."""
    own = {example.id: predictions["uncompressed"][example.id] for example in questions.examples}
    f1 = {
        name: [score.f1 for score in score_all(predictions[name], questions.examples)]
        for name in ("uncompressed", "phase1", "phase2")
    }
    in_f1 = _differences(f1["phase1"], f1["phase2"])
    in_agreement = _differences(*(agreements(predictions[name], own) for name in ("phase1", "phase2")))
    compared = (_differences(f1["uncompressed"], f1["phase2"]), in_f1, in_agreement, _differences(in_agreement, in_f1))
    return Gains(*(questions.interval(values)["low"] for values in compared))


def _differences(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return [b - a for a, b in zip(before, after, strict=True)]


def diversity(predictions: Sequence[str], examples: Sequence[Example]) -> Diversity:
    """How alike `predictions` are, beside how alike the first gold answers are."""
    found = Counter(normalize(text) for text in predictions)
    empty = found.pop("", 0)
    golds = Counter(normalize(example.golds[0]) for example in examples)
    del golds[""]
    return Diversity(
        max(found.values(), default=0) / len(predictions),
        max(golds.values(), default=0) / len(examples),
        len(found) / len(predictions),
        empty / len(predictions),
    )
