"""The first test questions as every system sees and answers them."""

from collections.abc import Mapping, Sequence
from typing import Any

from narrowband.codec.codec import Codec
from narrowband.data.squad import Example
from narrowband.diagnosis.conditions import norm_status
from narrowband.evaluation.answer import QuestionAnswerer
from narrowband.evaluation.scoring import Predictions, score
from narrowband.evaluation.tokens import token_view

SHOWN = 10


def first_examples(
    answerer: QuestionAnswerer,
    systems: Mapping[str, Codec | None],
    examples: Sequence[Example],
    predictions: Mapping[str, Predictions],
) -> list[dict[str, Any]]:
    """Question, gold answers, and each system's answer; for compressed systems also tokens and reconstruction figures."""
    return [
        {
            "id": example.id,
            "question": example.question,
            "golds": example.golds,
            "systems": {
                name: _seen(answerer, codec, example, predictions[name][example.id]) for name, codec in systems.items()
            },
        }
        for example in examples[:SHOWN]
    ]


def _seen(answerer: QuestionAnswerer, codec: Codec | None, example: Example, prediction: str) -> dict[str, Any]:
    scores = score(prediction, example.golds)
    seen = {"answer": prediction, "f1": scores.f1, "em": scores.em}
    if codec is None:
        return seen
    view = token_view(answerer.lm, codec, answerer.encode([example])[0])
    return {
        **seen,
        **view.quality,
        "norm_status": norm_status(view.quality["norm_ratio"]),
        "tokens": [list(pair) for pair in zip(view.original, view.nearest, view.matches, strict=True)],
    }
