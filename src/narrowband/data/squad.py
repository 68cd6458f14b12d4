"""Question-answering data in the SQuAD v1.1 JSON schema: read, checked, written."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from narrowband.files import write_text
from narrowband.params import InputError, first_line, shown

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """A span of the context: `context[start:][:len(text)] == text`."""

    text: str
    start: int


@dataclass(frozen=True)
class Example:
    """One question with its context and all its gold answers."""

    id: str
    context: str
    question: str
    answers: tuple[Answer, ...]

    @property
    def golds(self) -> list[str]:
        """Texts of the gold answers."""
        return [answer.text for answer in self.answers]


def write_squad(path: Path, title: str, examples: Iterable[Example]) -> None:
    """Write one article with a paragraph a context, in the schema of https://rajpurkar.github.io/SQuAD-explorer/."""
    paragraphs: dict[str, list[dict[str, object]]] = {}
    for example in examples:
        answers = [{"text": answer.text, "answer_start": answer.start} for answer in example.answers]
        paragraphs.setdefault(example.context, []).append(
            {"id": example.id, "question": example.question, "answers": answers}
        )
    article = {"title": title, "paragraphs": [{"context": context, "qas": qas} for context, qas in paragraphs.items()]}
    write_text(path, json.dumps({"version": "1.1", "data": [article]}, ensure_ascii=False, indent=1) + "\n")


def read_squad(path: Path) -> list[Example]:
    """Read every question of a SQuAD file.

    Raises:
        InputError: the file is missing, not JSON, not of the schema, holds no question, repeats an id, or has a
            question without an answer or an answer that is not where it is said to be.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError:
        raise InputError(f"QA file {path} does not exist or is no file; mend `dataset` or run dvc repro") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"QA file {path} is not JSON ({first_line(error)}); mend it or make it anew with dvc repro"
        ) from None
    try:
        examples = [
            Example(
                _typed(qa["id"], str),
                _typed(paragraph["context"], str),
                _typed(qa["question"], str),
                tuple(Answer(_typed(a["text"], str), _typed(a["answer_start"], int)) for a in qa["answers"]),
            )
            for article in content["data"]
            for paragraph in article["paragraphs"]
            for qa in paragraph["qas"]
        ]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"QA file {path} is not of the SQuAD schema ({type(error).__name__}: {error}); "
            "it must be data > paragraphs > context, qas > id, question, answers > text, answer_start"
        ) from None
    _check(path, examples)
    return examples


def _typed(value: object, kind: type[T]) -> T:
    if type(value) is not kind:  # a bool is an int to isinstance
        raise TypeError(f"{shown(value)} is no {kind.__name__}")
    if kind is str:
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise TypeError(f"{shown(value)} holds half a surrogate pair") from None
    return value


def _check(path: Path, examples: Sequence[Example]) -> None:
    if not examples:
        raise InputError(f"QA file {path} holds no question; give one with at least one")
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise InputError(f"QA file {path} has id {example.id} twice; make ids unique")
        seen.add(example.id)
        if not example.answers:
            raise InputError(
                f"QA file {path}: question {example.id} has no answer; only answerable (v1.1) questions are scored, remove it"
            )
        for text, start in ((answer.text, answer.start) for answer in example.answers):
            if not text.strip():
                raise InputError(f"QA file {path}: an answer of question {example.id} is empty; remove it")
            if start < 0 or example.context[start : start + len(text)] != text:
                raise InputError(
                    f"QA file {path}: answer {text!r} of question {example.id} is not at {start} in its context; mend answer_start"
                )
