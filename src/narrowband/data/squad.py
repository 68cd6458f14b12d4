"""Reading, checking and writing questions in the SQuAD JSON schema, v1.1 or v2.0."""

import codecs
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

import ijson

from narrowband.params import InputError, first_line
from narrowband.runtime.files import write_text
from narrowband.runtime.parameters import shown

T = TypeVar("T")

DEEPEST = 64
SCHEMA = "data > paragraphs > context, qas > id, question, answers > text, answer_start"


@dataclass(frozen=True)
class Answer:
    """A span of the context: `context[start:][:len(text)] == text`."""

    text: str
    start: int


@dataclass(frozen=True)
class Example:
    """One question with its context and gold answers; no answers if the context has none (SQuAD v2.0)."""

    id: str
    context: str
    question: str
    answers: tuple[Answer, ...]

    @property
    def golds(self) -> list[str]:
        """Texts of the gold answers; the empty text if the question is unanswerable."""
        return [answer.text for answer in self.answers] or [""]


def write_squad(path: Path, title: str, examples: Iterable[Example]) -> None:
    """Write one article with one paragraph per context, in the schema of https://rajpurkar.github.io/SQuAD-explorer/."""
    paragraphs: dict[str, list[dict[str, object]]] = {}
    version = "1.1"
    for example in examples:
        answers = [{"text": answer.text, "answer_start": answer.start} for answer in example.answers]
        qa: dict[str, object] = {"id": example.id, "question": example.question, "answers": answers}
        if not answers:
            version, qa["is_impossible"] = "v2.0", True
        paragraphs.setdefault(example.context, []).append(qa)
    article = {"title": title, "paragraphs": [{"context": context, "qas": qas} for context, qas in paragraphs.items()]}
    write_text(path, json.dumps({"version": version, "data": [article]}, ensure_ascii=False, indent=1) + "\n")


def read_squad(path: Path) -> list[Example]:
    """Read every question of a SQuAD file.

    Raises:
        InputError: see `stream_squad`; or an id occurs twice.
    """
    examples = list(stream_squad(path))
    require_unique(f"QA file {path}", examples)
    return examples


def stream_squad(path: Path) -> Iterator[Example]:
    """The questions of a SQuAD file, in order; only one paragraph is in memory at a time.

    Raises:
        InputError: the file is missing, is not JSON in UTF-8, does not have the schema or holds no question; or a question
            has no answer and is not marked `is_impossible`; or see `require_sound`.
    """
    empty = True
    with open_squad(path) as file:
        try:
            events = ijson.parse(_shallow(path, ijson.basic_parse(file)))
            for paragraph in ijson.items(events, "data.item.paragraphs.item"):
                for example in _questions(path, paragraph):
                    empty = False
                    yield example
        except InputError:
            raise
        except ijson.JSONError as error:
            _require_utf8(path)
            raise InputError(
                f"QA file {path} is not JSON ({first_line(error)}); fix it, or write it again with dvc repro"
            ) from None
        except (ValueError, SystemError):
            # Python refuses to convert such a number, and ijson passes that on in two ways.
            digits = sys.get_int_max_str_digits()
            raise InputError(
                f"QA file {path} has a number of more than {digits} digits; correct its answer_start"
            ) from None
    if empty:
        raise InputError(f"QA file {path} holds no question in the SQuAD schema; it must be {SCHEMA}")


def _shallow(path: Path, events: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """`events`, unless they are nested deeper than `DEEPEST`: the memory of ijson grows with the square of the depth."""
    depth = 0
    for event, value in events:
        depth += event.startswith("start_") - event.startswith("end_")
        if depth > DEEPEST:
            raise InputError(f"QA file {path} is nested more than {DEEPEST} levels deep; it must be {SCHEMA}")
        yield event, value


def open_squad(path: Path) -> BufferedReader:
    """Open a SQuAD file for reading, after its byte order mark if it has one.

    Raises:
        InputError: it is missing, is a folder, or is UTF-16.
    """
    try:
        file = path.open("rb")
    except OSError:
        raise InputError(
            f"QA file {path} does not exist or is not a file; correct `dataset` or `test_dataset`, or run dvc repro"
        ) from None
    start = file.peek(4)[:4]
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in start:
        file.close()
        raise InputError(f"QA file {path} is in UTF-16, not in UTF-8; save it as UTF-8")
    file.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)
    return file


def _require_utf8(path: Path) -> None:
    """Raises an InputError that names the first byte that is not UTF-8, if there is one."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise InputError(
                    f"QA file {path} is not in UTF-8 (byte 0x{line[error.start]:02x} in line {number}; it may be Latin-1 or "
                    "Windows-1252); save it as UTF-8"
                ) from None


def _questions(path: Path, paragraph: Any) -> Iterator[Example]:
    try:
        for qa in paragraph["qas"]:
            example = Example(
                typed(qa["id"], str),
                typed(paragraph["context"], str),
                typed(qa["question"], str),
                tuple(Answer(typed(a["text"], str), typed(a["answer_start"], int)) for a in qa["answers"]),
            )
            if not example.answers and not qa.get("is_impossible"):
                raise InputError(
                    f"QA file {path}: question {example.id} has no answer; remove it or mark it `is_impossible` (SQuAD v2.0)"
                )
            require_sound(f"QA file {path}", example)
            yield example
    except (KeyError, TypeError) as error:
        raise InputError(
            f"QA file {path} is not of the SQuAD schema ({type(error).__name__}: {error}); it must be {SCHEMA}"
        ) from None


def typed(value: object, kind: type[T]) -> T:
    """Return `value`; raises a TypeError if it is not of type `kind`."""
    if type(value) is not kind:  # a bool is an int to isinstance
        raise TypeError(f"{shown(value)} is not of type {kind.__name__}")
    return value


def require_unique(where: str, examples: Sequence[Example]) -> None:
    """Check that all ids differ; `where` names the file or data set in the message.

    Raises:
        InputError: an id occurs twice.
    """
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise InputError(f"{where} has the id {example.id} twice; make all ids different")
        seen.add(example.id)


def require_sound(where: str, example: Example) -> None:
    """Check that the question is not blank, and that every answer is one line at its `start` in the context.

    `where` names the file or data set in the message.

    Raises:
        InputError: it is blank; or an answer is empty, has a line break, where generation stops, or is not there.
    """
    if not example.question.strip():
        raise InputError(f"{where}: question {example.id} is blank; write or remove it")
    for text, start in ((answer.text, answer.start) for answer in example.answers):
        if not text.strip():
            raise InputError(f"{where}: an answer of question {example.id} is empty; remove it")
        if "\n" in text.strip():
            raise InputError(
                f"{where}: answer {shown(text)} of question {example.id} has a line break, where generation stops; shorten it "
                "to one line"
            )
        if start < 0 or example.context[start : start + len(text)] != text:
            raise InputError(
                f"{where}: answer {text!r} of question {example.id} is not at {start} in its context; correct answer_start"
            )
