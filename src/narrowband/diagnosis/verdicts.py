"""The decision table: from figures to what is wrong, how sure that is, and the experiment to try next.

Rows are read from top to bottom, up to the first verdict of high confidence: it explains whatever later rows would find.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

from narrowband.diagnosis.figures import CallPath, Diagnosis, Figures, Form
from narrowband.evaluation.form import ALIKE
from narrowband.params import Params

Confidence = Literal["low", "medium", "high"]
Overrides = Mapping[str, Any]
NormStatus = Literal["TOO LOW", "OK", "TOO HIGH"]

NORM_LOW, NORM_HIGH = 0.8, 1.2  # the original run's bounds
TOKENS_MATCH, TOKENS_COLLAPSE = 90.0, 50.0  # percent of tokens
RETAINED = 0.9  # share of the uncompressed F1 that counts as kept
READS = 10.0  # F1 below which the uncompressed model can't do the task
MARGIN = 0.2  # difference of two shares that is more than rounding and ties
ONE_WAY = 0.9  # mean pairwise cosine of collapsed tokens, if that of the originals is at most half of it


class Verdict(NamedTuple):
    """What is wrong, what shows it, how sure that is, and what to try; `FINDINGS` has a sentence for each name."""

    name: str
    evidence: str
    confidence: Confidence
    command: str


class Case(NamedTuple):
    """What a row of the table is applied to."""

    system: str
    figures: Figures
    call_path: CallPath
    uncompressed_f1: float
    form: Form
    params: Params
    vector_dim: int

    @property
    def lost(self) -> bool:
        """Whether the codec loses more than 10% of the uncompressed F1."""
        return self.figures.f1 < RETAINED * self.uncompressed_f1


class Found(NamedTuple):
    """Why a row applies, and how sure that is."""

    evidence: str
    confidence: Confidence


class Row(NamedTuple):
    """One row of the table; it proposes the first of its `remedies` that changes a parameter."""

    name: str
    finding: str
    applies: Callable[[Case], Found | None]
    remedies: Callable[[Case], list[dict[str, Any]]]


def norm_status(ratio: float) -> NormStatus:
    """Whether a norm ratio is within the bounds of the original run's diagnosis."""
    return "TOO LOW" if ratio < NORM_LOW else "TOO HIGH" if ratio > NORM_HIGH else "OK"


def verdicts(diagnosis: Diagnosis, params: Params, hidden_size: int) -> dict[str, list[Verdict]]:
    """The verdicts on every compressed system; `healthy` alone if no row applies."""
    vector_dim = params.vector_dim(hidden_size)
    return {
        system: judge(
            Case(system, figures, diagnosis.call_path, diagnosis.uncompressed_f1, diagnosis.form, params, vector_dim)
        )
        for system, figures in diagnosis.systems.items()
    }


def summary(diagnosis: Diagnosis, found: Mapping[str, list[Verdict]]) -> dict[str, Any]:
    """What goes into `results/diagnosis.json`: the figures by system, with the verdicts by name."""
    systems = {
        system: {
            **asdict(figures),
            "norm_status": norm_status(figures.reconstruction.norm_ratio),
            "verdicts": {
                verdict.name: {"confidence": verdict.confidence, "evidence": verdict.evidence, "try": verdict.command}
                for verdict in found[system]
            },
        }
        for system, figures in diagnosis.systems.items()
    }
    return {"call_path": asdict(diagnosis.call_path), "form": asdict(diagnosis.form), **systems}


def verdict_lines(found: Mapping[str, list[Verdict]]) -> list[str]:
    """Every verdict as two lines of rich markup: what shows it, and what to try."""
    return [
        f"{system}: [bold]{verdict.name}[/] ({verdict.confidence} confidence): {verdict.evidence}\n  next: {verdict.command}"
        for system, listed in found.items()
        for verdict in listed
    ]


def judge(case: Case) -> list[Verdict]:
    """The verdicts on one system, in the order of the table."""
    found = []
    for row in TABLE:
        applies = row.applies(case)
        if applies:
            found.append(Verdict(row.name, *applies, _command(row.remedies(case), case.params)))
            if applies.confidence == "high":
                break
    return found or [Verdict("healthy", _answers(case), "high", _command(_more(case), case.params))]


def _command(remedies: list[dict[str, Any]], params: Params) -> str:
    changing = [remedy for remedy in remedies if any(_value(params, name) != value for name, value in remedy.items())]
    settings = [f"-S {name}={value}" for name, value in changing[0].items()]
    return " ".join(["dvc exp run", *settings])


def _value(params: Params, name: str) -> Any:
    value: Any = params
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _answers(case: Case) -> str:
    return f"F1 is {case.figures.f1:.1f} against {case.uncompressed_f1:.1f} uncompressed"


def _attention_mask(case: Case) -> Found | None:
    path = case.call_path
    if path.without_mask - max(path.with_bos, path.without_bos) <= MARGIN:
        return None
    return Found(
        f"{path.without_mask:.0%} of the replayed uncompressed answers equal those to padded prompts with a mask of ones, "
        f"{max(path.with_bos, path.without_bos):.0%} those to the same prompts alone",
        "high" if path.without_mask > 1 - MARGIN else "medium",
    )


def _bos(case: Case) -> Found | None:
    path = case.call_path
    if path.without_bos - path.with_bos <= MARGIN or path.bos_gain_low <= 0:
        return None
    return Found(
        f"{path.without_bos:.0%} of the replayed uncompressed answers equal those to prompts without BOS, {path.with_bos:.0%} "
        f"those with BOS; BOS raises their F1 by at least {path.bos_gain_low:.1f}",
        "high" if path.without_bos > 1 - MARGIN else "medium",
    )


def _decoding(case: Case) -> Found | None:
    path = case.call_path
    nearest = max(path.with_bos, path.without_bos, path.without_mask)
    if nearest >= ALIKE:
        return None
    return Found(f"no call of the model reproduces more than {nearest:.0%} of the saved uncompressed answers", "high")


def _format(case: Case) -> Found | None:
    empty, buried = case.form.empty, case.form.buried
    if empty + buried <= MARGIN:
        return None
    return Found(
        f"{empty:.0%} of the uncompressed answers are empty, {buried:.0%} hold a right answer among too many other words",
        "high" if empty + buried > ALIKE else "medium",
    )


def _base_model(case: Case) -> Found | None:
    if case.uncompressed_f1 >= READS:
        return None
    return Found(f"F1 on the original embeddings is {case.uncompressed_f1:.1f}", "high")


def _rows(case: Case) -> Found | None:
    rebuilt = case.figures.reconstruction
    if rebuilt.other_overlap - rebuilt.own_overlap <= MARGIN:
        return None
    return Found(
        f"{rebuilt.other_overlap:.0%} of a prompt's reconstructed tokens stand in another prompt of its batch, "
        f"{rebuilt.own_overlap:.0%} in its own",
        "high",
    )


def _mode_collapse(case: Case) -> Found | None:
    rebuilt, answers = case.figures.reconstruction, case.figures.diversity
    one_way = rebuilt.pairwise_cosine > max(ONE_WAY, 2 * rebuilt.original_pairwise_cosine)
    alike = answers.commonest_prediction > max(ALIKE, 2 * answers.commonest_gold)
    if not one_way and not alike:
        return None
    return Found(
        f"reconstructed tokens have a mean pairwise cosine of {rebuilt.pairwise_cosine:.2f} (originals "
        f"{rebuilt.original_pairwise_cosine:.2f}) and an effective rank of {rebuilt.effective_rank:.0f} (originals "
        f"{rebuilt.original_effective_rank:.0f}); {answers.commonest_prediction:.0%} of all predictions are the same",
        "high",
    )


def _magnitude(case: Case) -> Found | None:
    ratio, trial = case.figures.reconstruction.norm_ratio, case.figures.rescaled
    status = norm_status(ratio)
    if not case.lost or (status == "OK" and trial.gain_low <= 0):
        return None
    restored = trial.f1_after >= RETAINED * case.uncompressed_f1
    return Found(
        f"norm ratio {ratio:.2f} is {status}; with the originals' norms F1 on {_batch(case)} goes from "
        f"{trial.f1_before:.1f} to {trial.f1_after:.1f}",
        "low" if trial.gain_low <= 0 else "high" if restored else "medium",
    )


def _unseen(case: Case) -> Found | None:
    rebuilt = case.figures.reconstruction
    blamed = rebuilt.unseen_share * (100 - rebuilt.unseen_match) / max(1e-9, 100 - rebuilt.token_match)
    if not case.lost or rebuilt.seen_match - rebuilt.unseen_match <= 100 * MARGIN or blamed <= MARGIN:
        return None
    return Found(
        f"{rebuilt.unseen_share:.1%} of the tokens occur in no training prompt: {rebuilt.unseen_match:.1f}% of them are nearest "
        f"to the original token, {rebuilt.seen_match:.1f}% of the others; {_answers(case)}",
        "high" if blamed > ALIKE else "medium",
    )


def _collapse(case: Case) -> Found | None:
    match = case.figures.reconstruction.token_match
    if match >= TOKENS_COLLAPSE or not case.lost:
        return None
    return Found(f"{_tokens(case)}; {_answers(case)}", "high" if match < TOKENS_COLLAPSE / 2 else "medium")


def _drift(case: Case) -> Found | None:
    if not TOKENS_COLLAPSE <= case.figures.reconstruction.token_match < TOKENS_MATCH or not case.lost:
        return None
    return Found(f"{_tokens(case)}; {_answers(case)}", "medium")


def _objective(case: Case) -> Found | None:
    if case.figures.reconstruction.token_match < TOKENS_MATCH or not case.lost:
        return None
    return Found(f"{_tokens(case)}, yet {_answers(case)}", "medium")


def _batch(case: Case) -> str:
    return f"a batch of at most {case.params.generation.batch_size} questions"


def _tokens(case: Case) -> str:
    rebuilt = case.figures.reconstruction
    return (
        f"{rebuilt.token_match:.1f}% of the reconstructed tokens are nearest to the original token, "
        f"{rebuilt.commonest_token:.1%} to one and the same"
    )


def _less(case: Case) -> list[dict[str, Any]]:
    """Less compression; longer training if there is no compression left."""
    return [{"compress_dim": min(2 * case.params.compress_dim, case.vector_dim)}, *_longer(case)]


def _more(case: Case) -> list[dict[str, Any]]:
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


TABLE = (
    Row(
        "attention_mask",
        "The language model ran without its attention mask: it read the padding.",
        _attention_mask,
        lambda case: [{"generation.batch_size": 1}, *_longer(case)],
    ),
    Row(
        "bos",
        "BOS was dropped, and the language model needs it.",
        _bos,
        lambda case: [{"prompt.bos": "text"}, {"prompt.bos": "codec"}],
    ),
    Row(
        "decoding",
        "The saved answers are not what the language model says to these prompts.",
        _decoding,
        lambda case: [{"generation.batch_size": 1}, {"generation.max_new_tokens": 32}, *_longer(case)],
    ),
    Row(
        "format",
        "The language model's own answers are not of the form that is scored: they are empty or say too much.",
        _format,
        _answer_form,
    ),
    Row(
        "base_model",
        "The language model can't answer even from the original embeddings.",
        _base_model,
        lambda case: [{"dataset": "bundled", "base_model": "models/base"}, {"prompt.bos": "text"}, *_longer(case)],
    ),
    Row(
        "rows",
        "Prompts get one another's reconstructions: rows of a batch are shuffled.",
        _rows,
        lambda case: [{"generation.batch_size": 1}, *_longer(case)],
    ),
    Row("mode_collapse", "Whatever the input, the output is the same.", _mode_collapse, _weights),
    Row("magnitude", "Reconstructed tokens have the wrong length.", _magnitude, _scale),
    Row(
        "unseen_tokens",
        "Tokens that training never saw are lost: the adapter rebuilds only those it saw.",
        _unseen,
        _wider,
    ),
    Row("tokens_collapse", "Most tokens are lost: too little is sent, or the decoder can't read it.", _collapse, _less),
    Row("tokens_drift", "Some tokens turn into others.", _drift, _drifted),
    Row(
        "objective",
        "The tokens are right but the answers are wrong: reconstruction is not generation.",
        _objective,
        _longer,
    ),
)

FINDINGS = {row.name: row.finding for row in TABLE} | {"healthy": "Nothing is wrong."}
