"""Training, validation and test questions, from the bundled world, a SQuAD-schema file or a data set on the hub."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from narrowband.data.dataset_revision import commit, is_hub_id
from narrowband.data.squad import Answer, Example, require_sound, require_unique, stream_squad, typed
from narrowband.params import InputError, Unanswerable, first_line
from narrowband.runtime.parameters import shown
from narrowband.world.names import Split, is_held_out
from narrowband.world.passages import Question, make_passage

BUNDLED = "bundled"


def are_generated(dataset: str, test_dataset: str | None) -> bool:
    """Whether all questions are made when they are asked for, so that there are always enough."""
    return dataset == BUNDLED and not test_dataset


Sizes = Mapping[Split, int]
"""Number of questions wanted in each split."""


class _Stream(NamedTuple):
    """Questions in stored order, each with its split; their name in error messages, and the splits that they fill."""

    name: str
    fills: Sequence[Split]
    questions: Iterator[tuple[Split, Example]]


def make_splits(
    dataset: str, sizes: Sizes, seed: int, unanswerable: Unanswerable, test_dataset: str | None
) -> dict[Split, list[Example]]:
    """Questions of `dataset` for each split: as many as `sizes` asks for, or all if there are fewer.

    With a `test_dataset` the test split is its first questions, and `dataset` fills the other two alone. A file or a data
    set on the hub is read no further than needed, and only the questions asked for are kept.

    Raises:
        InputError: a data set does not exist, is malformed, leaves a split empty, or has an unanswerable question while
            `data.unanswerable` is `refuse`; or both have a question of the same id, or a context.
    """
    splits: dict[Split, list[Example]] = {}
    for stream in _streams(dataset, test_dataset, seed):
        splits |= _filled(stream, sizes, unanswerable)
    _require_apart(dataset, test_dataset, splits)
    return splits


def check_dataset(
    dataset: str, sizes: Sizes, seed: int, unanswerable: Unanswerable, test_dataset: str | None
) -> dict[Split, list[Example]]:
    """Check what `make_splits` would read, and return it; of a data set on the hub, check a question and return no split.

    Raises:
        InputError: see `make_splits`.
    """
    given = {"dataset": dataset, **({"test_dataset": test_dataset} if test_dataset else {})}
    on_hub = {
        f"{parameter} {name}": name for parameter, name in given.items() if name != BUNDLED and not _is_file(name)
    }
    for where, name in on_hub.items():
        if not is_hub_id(name):
            path = Path(name)
            fault = "is a folder" if path.is_dir() else "is not a .json file" if path.exists() else "does not exist"
            raise InputError(
                f"{where} {fault}; give `{BUNDLED}`, a .json file of the SQuAD schema or a hub id (owner/name)"
            )
    splits: dict[Split, list[Example]] = {}
    for stream in _streams(dataset, test_dataset, seed):
        if stream.name not in on_hub:
            splits |= _filled(stream, sizes, unanswerable)
            continue
        for _, example in islice(stream.questions, 1):
            _check(stream.name, example, unanswerable)
    _require_apart(dataset, test_dataset, splits)
    return splits


def _filled(stream: _Stream, sizes: Sizes, unanswerable: Unanswerable) -> dict[Split, list[Example]]:
    """The splits that `stream` fills."""
    splits: dict[Split, list[Example]] = {split: [] for split in stream.fills}
    for split, example in stream.questions:
        if len(splits[split]) < sizes[split]:
            _check(stream.name, example, unanswerable)
            splits[split].append(example)
        if all(len(splits[name]) == sizes[name] for name in stream.fills):
            break
    for split in stream.fills:
        if not splits[split]:
            raise InputError(
                f"{stream.name} leaves the {split} split empty: its contexts are shared out by a hash, about a tenth each to "
                "validation and test; give more contexts, or a file of its own as test_dataset"
            )
    return splits


def _require_apart(dataset: str, test_dataset: str | None, splits: Mapping[Split, Sequence[Example]]) -> None:
    """Check that all ids differ, and that no question or context is in both data sets."""
    test = splits.get("test", ())
    rest = [example for split, examples in splits.items() for example in examples if split != "test"]
    both = f"dataset {dataset} and test_dataset {test_dataset} both hold"
    if test_dataset and (ids := sorted({e.id for e in test} & {e.id for e in rest})):
        raise InputError(
            f"{both} the question of id {ids[0]}, so they would train on what they test; give another test_dataset, or make the "
            "ids different if the questions are"
        )
    if test_dataset and (contexts := sorted({e.context for e in test} & {e.context for e in rest})):
        raise InputError(
            f"{both} the context {shown(contexts[0])}, so they would train on what they test; give another test_dataset"
        )
    require_unique(f"dataset {dataset}" + (f" or test_dataset {test_dataset}" if test_dataset else ""), [*rest, *test])


def world_example(seed: int, split: Split, index: int) -> Example:
    """Question `index` of a split of the bundled world; each has a passage of its own.

    Training questions contain none of `held_out_words`, so that the test split has tokens that occur in no training prompt. No
    question asks for a value that its passage states before the name ("Mara Velt founded Tornby."): the bundled model, with four
    layers, can't answer such questions (docs/log.md).
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
    questions = stream_squad(Path(dataset)) if _is_file(dataset) else _rows(name, dataset, "train")
    fed: Iterator[tuple[Split, Example]] = (("train" if _bucket(e) == "test" else _bucket(e), e) for e in questions)
    return [_Stream(name, ("train", "validation"), fed)]


def _test(dataset: str, test_dataset: str | None, seed: int) -> _Stream:
    held_out = test_dataset or dataset
    name = f"test_dataset {test_dataset}" if test_dataset else f"dataset {dataset}"
    if held_out == BUNDLED:
        return _Stream(name, ("test",), _world(seed, "test"))
    questions = stream_squad(Path(held_out)) if _is_file(held_out) else _rows(name, held_out, "validation")
    return _Stream(name, ("test",), (("test", example) for example in questions))


def _world(seed: int, split: Split) -> Iterator[tuple[Split, Example]]:
    return ((split, world_example(seed, split, index)) for index in count())


def _is_file(name: str) -> bool:
    return Path(name).suffix.lower() == ".json"


def _bucket(example: Example) -> Split:
    """The split of a question, by CRC-32 of its context: no context is in two splits."""
    number = zlib.crc32(example.context.encode()) % 10
    return "test" if number == 9 else "validation" if number == 8 else "train"


def _rows(where: str, name: str, split: str) -> Iterator[Example]:
    import datasets

    wanted = commit(where, name)
    try:
        builder = datasets.load_dataset_builder(name.partition("@")[0], revision=wanted)
        if builder.hash != wanted:  # without the hub, the library reads any commit that is in its own cache
            raise InputError(
                f"{where} is at commit {wanted} and only another one, {builder.hash}, is on this machine; check the network"
            )
        for row in builder.as_streaming_dataset(split):
            yield _from_row(where, row)
    except InputError:
        raise
    except (OSError, ValueError, TypeError, LookupError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"{where} can't be read from the hub ({first_line(error)}); check its name, your access and the network"
        ) from None


def _from_row(where: str, row: Mapping[str, Any]) -> Example:
    try:
        answers = row["answers"]
        pairs = zip(answers["text"], answers["answer_start"], strict=True)
        spans = tuple(Answer(typed(text, str), typed(start, int)) for text, start in pairs)
        return Example(str(row["id"]), typed(row["context"], str), typed(row["question"], str), spans)
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{where}: row {shown(row.get('id'))} does not have the SQuAD schema; use a data set that has"
        ) from None


def _check(name: str, example: Example, unanswerable: Unanswerable) -> None:
    require_sound(name, example)
    if not example.answers and unanswerable == "refuse":
        raise InputError(
            f"{name}: question {example.id} is unanswerable; use a SQuAD v1.1 data set, or set data.unanswerable to "
            "score, where an empty answer to it is right (SQuAD v2.0)"
        )
