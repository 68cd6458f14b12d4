"""All systems on the same test questions: the table that the project is about."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from narrowband.codec.codec import Codec
from narrowband.codec.quantize import FLOAT16_BITS
from narrowband.data.prompts import say_truncated
from narrowband.data.squad import Example
from narrowband.evaluation.answer import Evaluated, QuestionAnswerer, QuestionSet
from narrowband.evaluation.reading import Read
from narrowband.evaluation.reconstruction import TABLE_FIGURES
from narrowband.evaluation.scoring import Predictions, agreement
from narrowband.evaluation.significance import mcnemar
from narrowband.runtime.progress import bar


class Comparison(NamedTuple):
    """The headline (`metrics/evaluate.json`), everything else (`results/evaluate.json`), and predictions by system."""

    headline: dict[str, Any]
    details: dict[str, Any]
    predictions: dict[str, Predictions]


def compare(
    answerer: QuestionAnswerer, systems: Mapping[str, Codec], own: Evaluated, questions: QuestionSet
) -> Comparison:
    """Evaluate every system, beside the uncompressed model (`own`); F1, EM and agreement are 0 to 100.

    The details have the quality of the tokens coded in training and of all others, if the former are known.
    """
    examples, _, seen = questions
    answered = {"uncompressed": own}
    with bar("questions", len(examples) * len(systems)) as advance:
        for name, system in systems.items():
            answered[name] = answerer.answer(system, examples, seen=seen, advance=advance)
    say_truncated(own.truncated_share, answerer.prompt)
    headline: dict[str, Any] = {name: _headline(result, own) for name, result in answered.items()}
    headline["compression_ratio"] = next(iter(systems.values())).compression_ratio
    headline["bits_per_token"] = answered["phase2"].bits_per_token
    headline["f1_retained"] = answered["phase2"].f1 / own.f1 if own.f1 else 0.0
    details: dict[str, Any] = {name: _details(result, questions) for name, result in answered.items()}
    details["uncompressed"]["bits_per_token"] = FLOAT16_BITS * answerer.lm.hidden_size
    for before, after in (("pca", "phase1"), ("phase1", "phase2")):
        details[after] |= _gain(answered[before], answered[after], questions)
    exact = {name: [score.em for score in result.scores] for name, result in answered.items()}
    details["mcnemar"] = {f"{a}_{b}": mcnemar(exact[a], exact[b]) for a, b in combinations(exact, 2)}
    details["questions"] = len(examples)
    details["truncated_share"] = own.truncated_share
    return Comparison(headline, details, {name: result.predictions for name, result in answered.items()})


def with_reader(comparison: Comparison, read: Mapping[str, Read], questions: QuestionSet) -> Comparison:
    """`comparison` with a row for the reader, and in the details rows for untrained ways to read as few positions."""
    own = comparison.predictions["uncompressed"]
    rows = {name: _reader_row(one, own) for name, one in read.items()}
    spans = {
        name: {"f1_interval": questions.interval([score.f1 for score in one.scores])} for name, one in read.items()
    }
    simpler = {name: {**row, **spans[name]} for name, row in rows.items() if name != "reader"}
    return Comparison(
        {**comparison.headline, "reader": rows["reader"]},
        {**comparison.details, "reader": spans["reader"], "fewer_positions": simpler},
        {**comparison.predictions, "reader": read["reader"].predictions},
    )


def _reader_row(read: Read, own: Mapping[str, str]) -> dict[str, float]:
    return {
        "f1": read.f1,
        "em": read.em,
        "agreement": agreement(read.predictions, own),
        "positions_ratio": read.positions_ratio,
        "bits_per_token": read.bits_per_token,
    }


def _headline(result: Evaluated, own: Evaluated) -> dict[str, float]:
    """F1 and EM; for a compressed system also agreement with the uncompressed model, and reconstruction figures."""
    row = {"f1": result.f1, "em": result.em}
    if result is own:
        return row
    return {
        **row,
        "agreement": agreement(result.predictions, own.predictions),
        **{name: result.quality[name] for name in TABLE_FIGURES if name in result.quality},
    }


def _details(result: Evaluated, questions: QuestionSet) -> dict[str, Any]:
    """The interval of F1, other reconstruction figures, the form of answers, and F1 by answerability."""
    f1 = [score.f1 for score in result.scores]
    rest = {name: value for name, value in result.quality.items() if name not in TABLE_FIGURES}
    return {
        "f1_interval": questions.interval(f1),
        **rest,
        "form": result.form,
        **result.by_seen,
        **_by_answerability(questions.examples, f1),
    }


def _gain(before: Evaluated, after: Evaluated, questions: QuestionSet) -> dict[str, Any]:
    """Mean difference in F1, question by question, with its paired interval."""
    gains = [b.f1 - a.f1 for a, b in zip(before.scores, after.scores, strict=True)]
    return {"f1_gain": sum(gains) / len(gains), "f1_gain_interval": questions.interval(gains)}


def _by_answerability(examples: Sequence[Example], f1: Sequence[float]) -> dict[str, float]:
    """Mean F1 of answerable and of unanswerable questions, if there are both."""
    kinds: dict[str, list[float]] = {"answerable_f1": [], "unanswerable_f1": []}
    for example, value in zip(examples, f1, strict=True):
        kinds["answerable_f1" if example.answers else "unanswerable_f1"].append(value)
    return {kind: sum(values) / len(values) for kind, values in kinds.items()} if all(kinds.values()) else {}
