"""Training, validation and test questions, from the bundled world, a SQuAD-schema file or a data set on the hub."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from narrowband.data.squad import Answer, Example, require_sound, require_unique, stream_squad
from narrowband.params import InputError, Unanswerable, first_line
from narrowband.world.names import Split
from narrowband.world.passages import make_passage

BUNDLED = "bundled"

Sizes = Mapping[Split, int]
"""Number of questions wanted in each split."""


def make_splits(dataset: str, sizes: Sizes, seed: int, unanswerable: Unanswerable) -> dict[Split, list[Example]]:
    """Questions of `dataset` for each split: as many as `sizes` asks for, or all if there are fewer.

    A file or a data set on the hub is read no further than needed, and only the questions asked for are kept.

    Raises:
        InputError: the data set does not exist, is malformed, leaves a split empty, or has an unanswerable question while
            `data.unanswerable` is `refuse`.
    """
    if dataset == BUNDLED:
        return {split: [world_example(seed, split, i) for i in range(n)] for split, n in sizes.items()}
    splits: dict[Split, list[Example]] = {split: [] for split in sizes}
    for fed, questions in _streams(dataset):
        for split, example in questions:
            if len(splits[split]) < sizes[split]:
                _check(dataset, example, unanswerable)
                splits[split].append(example)
            if all(len(splits[name]) == sizes[name] for name in fed):
                break
    for split, examples in splits.items():
        if not examples:
            raise InputError(f"dataset {dataset} leaves the {split} split empty; give more contexts")
    require_unique(f"dataset {dataset}", [example for examples in splits.values() for example in examples])
    return splits


def check_dataset(
    dataset: str, sizes: Sizes, seed: int, unanswerable: Unanswerable, enough: int
) -> dict[Split, list[Example]]:
    """Check what `make_splits` would read, and return it; of a data set on the hub, its first questions are checked alone.

    Of the bundled world, the first `enough` questions of each split are returned; of the hub, none.

    Raises:
        InputError: see `make_splits`.
    """
    if dataset == BUNDLED:
        return make_splits(dataset, {split: min(n, enough) for split, n in sizes.items()}, seed, unanswerable)
    if Path(dataset).suffix == ".json":
        return make_splits(dataset, sizes, seed, unanswerable)
    if dataset.count("/") == 1:
        for _, questions in _streams(dataset):
            _check(dataset, next(iter(questions))[1], unanswerable)
        return {}
    raise InputError(
        f"dataset {dataset} does not exist; give `{BUNDLED}`, a .json file of the SQuAD schema or a hub id (owner/name)"
    )


def world_example(seed: int, split: Split, index: int) -> Example:
    """Question `index` of a split of the bundled world; each has a passage of its own."""
    rng = Random(f"{seed}/qa/{split}/{index}")
    passage = make_passage(rng, split)
    question = rng.choice(passage.questions)
    return Example(
        f"{split}-{index:05d}", passage.text, question.text, (Answer(question.answer, question.answer_start),)
    )


def _streams(dataset: str) -> list[tuple[Sequence[Split], Iterator[tuple[Split, Example]]]]:
    """Streams of questions in stored order: which splits a stream fills, and each question with its split.

    A file fills all three splits, 80/10/10 by context. Of a data set on the hub, `train` fills training and validation,
    and `validation` fills the test split.
    """
    if Path(dataset).suffix == ".json":
        return [(("train", "validation", "test"), ((_bucket(e), e) for e in stream_squad(Path(dataset))))]
    train: Iterator[tuple[Split, Example]] = (
        ("train" if _bucket(e) == "test" else _bucket(e), e) for e in _rows(dataset, "train")
    )
    return [(("train", "validation"), train), (("test",), (("test", e) for e in _rows(dataset, "validation")))]


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


def _check(dataset: str, example: Example, unanswerable: Unanswerable) -> None:
    require_sound(f"dataset {dataset}", example)
    if not example.answers and unanswerable == "refuse":
        raise InputError(
            f"dataset {dataset}: question {example.id} is unanswerable; use a SQuAD v1.1 data set, or set data.unanswerable to "
            "score, where an empty answer to it is right (SQuAD v2.0)"
        )
