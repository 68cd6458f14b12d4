"""Training, validation and test questions, from the bundled world, a SQuAD-schema file or a data set on the hub."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from narrowband.data.squad import Answer, Example, require_sound, require_unique, stream_squad
from narrowband.params import InputError, Unanswerable, first_line
from narrowband.world.names import Split, is_held_out
from narrowband.world.passages import Question, make_passage

BUNDLED = "bundled"

Sizes = Mapping[Split, int]
"""Number of questions wanted in each split."""


class _Stream(NamedTuple):
    """Questions in stored order, each with its split; their name in error messages, and the splits that they fill."""

    name: str
    fills: Sequence[Split]
    questions: Iterator[tuple[Split, Example]]


def make_splits(
    dataset: str, sizes: Sizes, seed: int, unanswerable: Unanswerable, test_dataset: str | None = None
) -> dict[Split, list[Example]]:
    """Questions of `dataset` for each split: as many as `sizes` asks for, or all if there are fewer.

    With a `test_dataset` the test split is its first questions, and `dataset` fills the other two alone. A file or a data
    set on the hub is read no further than needed, and only the questions asked for are kept.

    Raises:
        InputError: a data set does not exist, is malformed, leaves a split empty, or has an unanswerable question while
            `data.unanswerable` is `refuse`; or both have a question of the same id.
    """
    splits: dict[Split, list[Example]] = {split: [] for split in sizes}
    for stream in _streams(dataset, test_dataset, seed):
        for split, example in stream.questions:
            if len(splits[split]) < sizes[split]:
                _check(stream.name, example, unanswerable)
                splits[split].append(example)
            if all(len(splits[name]) == sizes[name] for name in stream.fills):
                break
        for split in stream.fills:
            if not splits[split]:
                raise InputError(f"{stream.name} leaves the {split} split empty; give more contexts")
    both = f"dataset {dataset}" + (f" with test_dataset {test_dataset}" if test_dataset else "")
    require_unique(both, [example for examples in splits.values() for example in examples])
    return splits


def check_dataset(
    dataset: str, sizes: Sizes, seed: int, unanswerable: Unanswerable, test_dataset: str | None = None
) -> dict[Split, list[Example]]:
    """Check what `make_splits` would read, and return it; of a data set on the hub, check one question and return nothing.

    Raises:
        InputError: see `make_splits`.
    """
    given = {"dataset": dataset, **({"test_dataset": test_dataset} if test_dataset else {})}
    for parameter, name in given.items():
        if name != BUNDLED and not _is_file(name) and name.count("/") != 1:
            raise InputError(
                f"{parameter} {name} does not exist; give `{BUNDLED}`, a .json file of the SQuAD schema or a hub id (owner/name)"
            )
    if all(name == BUNDLED or _is_file(name) for name in given.values()):
        return make_splits(dataset, sizes, seed, unanswerable, test_dataset)
    for stream in _streams(dataset, test_dataset, seed):
        _check(stream.name, next(stream.questions)[1], unanswerable)
    return {}


def world_example(seed: int, split: Split, index: int) -> Example:
    """Question `index` of a split of the bundled world; each has a passage of its own.

    Training questions contain none of `held_out_words`, so that the test split has tokens that training never saw. No question
    asks for a value that its passage states before the name ("Mara Velt founded Tornby."): the bundled model, with four layers,
    can't answer such questions (docs/log.md).
    """
    rng = Random(f"{seed}/qa/{split}/{index}")
    questions: list[Question] = []
    while not questions:
        passage = make_passage(rng, split)
        if split != "train" or not is_held_out(passage.text):
            questions = [question for question in passage.questions if not question.value_first]
    question = rng.choice(questions)
    return Example(
        f"{split}-{index:05d}", passage.text, question.text, (Answer(question.answer, question.answer_start),)
    )


def _streams(dataset: str, test_dataset: str | None, seed: int) -> list[_Stream]:
    """The streams that fill the splits.

    A file fills all three, 80/10/10 by context. Of a data set on the hub, `train` fills training and validation, and
    `validation` fills the test split. If test questions come from elsewhere, the test share goes to training.
    """
    name = f"dataset {dataset}"
    if test_dataset is None and _is_file(dataset):
        return [_Stream(name, ("train", "validation", "test"), ((_bucket(e), e) for e in stream_squad(Path(dataset))))]
    return [*_training(name, dataset, seed), _test(dataset, test_dataset, seed)]


def _training(name: str, dataset: str, seed: int) -> list[_Stream]:
    if dataset == BUNDLED:
        return [_Stream(name, (split,), _world(seed, split)) for split in ("train", "validation")]
    questions = stream_squad(Path(dataset)) if _is_file(dataset) else _rows(dataset, "train")
    fed: Iterator[tuple[Split, Example]] = (("train" if _bucket(e) == "test" else _bucket(e), e) for e in questions)
    return [_Stream(name, ("train", "validation"), fed)]


def _test(dataset: str, test_dataset: str | None, seed: int) -> _Stream:
    held_out = test_dataset or dataset
    name = f"test_dataset {test_dataset}" if test_dataset else f"dataset {dataset}"
    if held_out == BUNDLED:
        return _Stream(name, ("test",), _world(seed, "test"))
    questions = stream_squad(Path(held_out)) if _is_file(held_out) else _rows(held_out, "validation")
    return _Stream(name, ("test",), (("test", example) for example in questions))


def _world(seed: int, split: Split) -> Iterator[tuple[Split, Example]]:
    return ((split, world_example(seed, split, index)) for index in count())


def _is_file(name: str) -> bool:
    return Path(name).suffix == ".json"


def _bucket(example: Example) -> Split:
    """The split of a question, by CRC-32 of its context: no context is in two splits."""
    number = zlib.crc32(example.context.encode()) % 10
    return "test" if number == 9 else "validation" if number == 8 else "train"


def _rows(name: str, split: str) -> Iterator[Example]:
    import datasets

    try:
        for row in datasets.load_dataset(name, split=split, streaming=True):
            yield _from_row(name, row)
    except InputError:
        raise
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"dataset {name} can't be read from the hub ({first_line(error)}); check its name, your access and the network"
        ) from None


def _from_row(name: str, row: Mapping[str, Any]) -> Example:
    answers = row.get("answers")
    if not isinstance(answers, dict) or not {"id", "context", "question"} <= row.keys():
        raise InputError(f"dataset {name}: row {row.get('id')} does not have the SQuAD schema; use a data set that has")
    spans = tuple(Answer(text, start) for text, start in zip(answers["text"], answers["answer_start"], strict=True))
    return Example(str(row["id"]), str(row["context"]), str(row["question"]), spans)


def _check(name: str, example: Example, unanswerable: Unanswerable) -> None:
    require_sound(name, example)
    if not example.answers and unanswerable == "refuse":
        raise InputError(
            f"{name}: question {example.id} is unanswerable; use a SQuAD v1.1 data set, or set data.unanswerable to "
            "score, where an empty answer to it is right (SQuAD v2.0)"
        )
