"""Verdicts: what is wrong with each system, how sure that is, and the experiment to try next.

Rows of the table are read from top to bottom, up to the first verdict of high confidence: it explains whatever later rows would
find.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from rich.text import Text

from narrowband.diagnosis.conditions import Case, Confidence, compared_f1, norm_status
from narrowband.diagnosis.figures import Diagnosis
from narrowband.diagnosis.table import TABLE, compress_more
from narrowband.params import Params


class Verdict(NamedTuple):
    """What is wrong, what shows it, how sure that is, and what to try; `FINDINGS` has a sentence for each name."""

    name: str
    evidence: str
    confidence: Confidence
    command: str


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


def verdict_lines(found: Mapping[str, list[Verdict]]) -> list[Text]:
    """Every verdict as two lines: what shows it, and what to try."""
    return [
        Text.assemble(
            f"{system}: ",
            (verdict.name, "bold"),
            f" ({verdict.confidence} confidence): {verdict.evidence}\n  next: {verdict.command}",
        )
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
    return found or [Verdict("healthy", compared_f1(case), "high", _command(compress_more(case), case.params))]


def _command(remedies: list[dict[str, Any]], params: Params) -> str:
    changes = ({name: to for name, to in remedy.items() if _value(params, name) != to} for remedy in remedies)
    settings = [f"-S {name}={'null' if to is None else to}" for name, to in next(filter(None, changes)).items()]
    return " ".join(["dvc exp run", *settings])


def _value(params: Params, name: str) -> Any:
    value: Any = params
    for part in name.split("."):
        value = getattr(value, part)
    return value
