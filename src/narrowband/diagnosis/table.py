"""The decision table: from figures to what is wrong, and the experiment to try next."""

from collections.abc import Callable
from typing import Any, NamedTuple

from narrowband.diagnosis import conditions
from narrowband.diagnosis.conditions import Case, Found, norm_status


class Row(NamedTuple):
    """One row of the table; it proposes the first of its `remedies` that changes a parameter."""

    name: str
    finding: str
    applies: Callable[[Case], Found | None]
    remedies: Callable[[Case], list[dict[str, Any]]]


def _less(case: Case) -> list[dict[str, Any]]:
    """Less compression; longer training if there is no compression left."""
    return [{"compress_dim": min(2 * case.params.compress_dim, case.vector_dim)}, *_longer(case)]


def compress_more(case: Case) -> list[dict[str, Any]]:
    """More compression; longer training if there is nothing left to compress."""
    return [{"compress_dim": max(1, case.params.compress_dim // 2)}, *_longer(case)]


def _longer(case: Case) -> list[dict[str, Any]]:
    return [{"phase2.steps": 2 * case.params.phase2.steps}]


def _answer_form(case: Case) -> list[dict[str, Any]]:
    more = {"generation.max_new_tokens": 2 * case.params.generation.max_new_tokens}
    return [more] if case.form.empty > case.form.buried else [{"generation.stop": "sentence"}, more]


def _wider(case: Case) -> list[dict[str, Any]]:
    share = max(0.5, case.params.phase1.vocabulary_share)
    return [{"phase1.vocabulary_share": share}, {"data.train": 2 * case.params.data.train}]


def _scale(case: Case) -> list[dict[str, Any]]:
    return [{"magnitude": "token"}, *_less(case)]


def _weights(case: Case) -> list[dict[str, Any]]:
    """For Phase 1 the original run's cosine-dominant weights, or a lower rate; for Phase 2 a larger reconstruction weight."""
    if case.system == "phase2":
        weight = case.params.loss.phase2.reconstruction
        return [{"loss.phase2.reconstruction": max(1.0, 2 * weight)}]
    return [{"loss.phase1.cosine": 1.0, "loss.phase1.mse": 0.1}, {"phase1.lr": case.params.phase1.lr / 4}]


def _drifted(case: Case) -> list[dict[str, Any]]:
    ratio = case.figures.reconstruction.norm_ratio
    return _less(case) if norm_status(ratio) == "OK" else _scale(case)


def _control(case: Case) -> list[dict[str, Any]]:
    """The same adapter with nothing compressed, whose gain is the task alone; then KL alone, which teaches no gold answers."""
    return [{"compress_dim": case.vector_dim}, {"loss.phase2.cross_entropy": 0}]


BUNDLED_MODEL = {
    **{"base_model": "models/base", "dataset": "bundled", "test_dataset": None},
    **{"window": 16, "compress_dim": 1024},
}
"""A model that can answer, with its questions, and a codec that fits it."""

TABLE = (
    Row(
        "attention_mask",
        "The language model ran without its attention mask: it read the padding.",
        conditions.attention_mask,
        lambda case: [{"generation.batch_size": 1}, *_longer(case)],
    ),
    Row(
        "bos",
        "BOS was dropped, and the language model needs it.",
        conditions.bos,
        lambda case: [{"prompt.bos": "text"}, {"prompt.bos": "codec"}],
    ),
    Row(
        "decoding",
        "The saved answers are not what the language model says to these prompts.",
        conditions.decoding,
        lambda case: [{"generation.batch_size": 1}, {"generation.max_new_tokens": 32}, *_longer(case)],
    ),
    Row(
        "format",
        "The language model's own answers are not of the form that is scored: they are empty or say too much.",
        conditions.answer_form,
        _answer_form,
    ),
    Row(
        "base_model",
        "The language model can't answer even from the original embeddings.",
        conditions.base_model,
        lambda case: [BUNDLED_MODEL, {"prompt.bos": "text"}, *_longer(case)],
    ),
    Row(
        "rows",
        "Prompts get one another's reconstructions: rows of a batch are shuffled.",
        conditions.rows,
        lambda case: [{"generation.batch_size": 1}, *_longer(case)],
    ),
    Row("mode_collapse", "Whatever the input, the output is the same.", conditions.mode_collapse, _weights),
    Row("magnitude", "Reconstructed tokens have the wrong length.", conditions.magnitude, _scale),
    Row(
        "unseen_tokens",
        "Tokens that occur in no training prompt are lost: the adapter rebuilds those that it was trained on most.",
        conditions.unseen_tokens,
        _wider,
    ),
    Row(
        "tokens_collapse",
        "Most tokens are lost: too little is sent, or the decoder can't read it.",
        conditions.tokens_collapse,
        _less,
    ),
    Row("tokens_drift", "Some tokens turn into others.", conditions.tokens_drift, _drifted),
    Row(
        "objective",
        "The tokens are right but the answers are wrong: reconstruction is not generation.",
        conditions.objective,
        _longer,
    ),
    Row(
        "learned_task",
        "Part of the F1 is the task, learned from gold answers, not information kept.",
        conditions.learned_task,
        _control,
    ),
)

FINDINGS = {row.name: row.finding for row in TABLE} | {"healthy": "No fault was found."}
