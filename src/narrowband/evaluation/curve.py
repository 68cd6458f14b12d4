"""The rate-quality curve: F1 against bits per token, of PCA with and without adapter and of the baselines."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from rich.table import Table

from narrowband.codec.codec import Codec
from narrowband.codec.config import CodecConfig
from narrowband.evaluation.answer import Evaluated, QuestionAnswerer, QuestionSet, System
from narrowband.evaluation.baselines import OF_CODEC, REFERENCES, TABLE_SYSTEMS, Fitting, TrainingText, rate_of, rates
from narrowband.evaluation.reconstruction import TABLE_FIGURES
from narrowband.evaluation.scoring import Predictions, agreements
from narrowband.runtime.entry import console
from narrowband.runtime.progress import bar

T = TypeVar("T", bound=TrainingText)

NOTHING_SENT = "mean vector", "nothing sent"
"""System and setting of what shows how much the model answers without a codec."""


class Entry(NamedTuple):
    """A system, with its name, the setting that distinguishes it from others of that name, and its answers if they are known."""

    name: str
    setting: str
    system: System
    answers: Predictions | None = None


def references(text: TrainingText) -> list[Entry]:
    """Every system of `REFERENCES`, fitted on training prompts, and what the model answers if nothing is sent."""
    return [*_entries(REFERENCES, text), Entry(*NOTHING_SENT, text.mean_vector)]


def baselines(fitting: Fitting) -> list[Entry]:
    """Every system of `OF_CODEC`, fitted on training prompts."""
    return _entries(OF_CODEC, fitting)


def _entries(systems: Mapping[str, Callable[[T], Mapping[str, System]]], text: T) -> list[Entry]:
    """All settings of `systems`; of states after a block, only of those that need no embedding table."""
    skipped = systems.keys() & set(TABLE_SYSTEMS) if text.answerer.lm.sender_blocks else set()
    for name in sorted(skipped):
        console.print(f"no rows for {name}: states after a block are in no embedding table")
    made = {name: make(text) for name, make in systems.items() if name not in skipped}
    return [Entry(name, setting, system) for name, settings in made.items() for setting, system in settings.items()]


def adapters(fitting: Fitting, phase1: Codec, phase2: Codec) -> list[Entry]:
    """Phase 1 as trained; Phase 2 as trained, and with its latents coded in other ways afterwards."""
    return [
        Entry("phase1", rate_of(phase1.config), phase1),
        *[Entry("phase2", rate, codec) for rate, codec in rates(phase2, fitting.coder).items()],
    ]


def with_answers(entries: Sequence[Entry], config: CodecConfig, answers: Mapping[str, Predictions]) -> list[Entry]:
    """The entries, those with the settings of `config` with the `answers` of the system of that name."""
    own = rate_of(config)
    return [entry._replace(answers=answers.get(entry.name)) if entry.setting == own else entry for entry in entries]


def curve(
    answerer: QuestionAnswerer, entries: Sequence[Entry], own: Predictions, questions: QuestionSet
) -> list[dict[str, Any]]:
    """A row per system: bits per coded token, F1 and agreement with 95% intervals, EM, reconstruction figures.

    `own` are the uncompressed model's answers, to these questions and maybe others.
    """
    examples = questions.examples
    with bar("questions", len(examples) * len(entries)) as advance:
        return [
            _row(
                entry, answerer.answer(entry.system, examples, answered=entry.answers, advance=advance), own, questions
            )
            for entry in entries
        ]


def _row(entry: Entry, result: Evaluated, own: Predictions, questions: QuestionSet) -> dict[str, Any]:
    agreed = agreements(result.predictions, {id_: own[id_] for id_ in result.predictions})
    return {
        "system": entry.name,
        "setting": entry.setting,
        "bits_per_token": result.bits_per_token,
        "f1": result.f1,
        "em": result.em,
        "agreement": sum(agreed) / len(agreed),
        "f1_interval": questions.interval([score.f1 for score in result.scores]),
        "agreement_interval": questions.interval(agreed),
        **{key: result.quality[key] for key in TABLE_FIGURES if key in result.quality},
    }


def curve_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows, highest rate first."""
    shown = Table("system", "setting")
    for column in ("bits per token", "F1", "95% interval", "agreement", "cosine", "token match"):
        shown.add_column(column, justify="right")
    for row in sorted(rows, key=lambda row: -row["bits_per_token"]):
        shown.add_row(
            row["system"],
            row["setting"],
            f"{row['bits_per_token']:.3g}" if row["bits_per_token"] < 100 else f"{row['bits_per_token']:.0f}",
            f"{row['f1']:.1f}",
            "{low:.1f} to {high:.1f}".format(**row["f1_interval"]),
            f"{row['agreement']:.1f}",
            f"{row['cosine']:.3f}",
            f"{row['token_match']:.1f}" if "token_match" in row else "",
        )
    return shown
