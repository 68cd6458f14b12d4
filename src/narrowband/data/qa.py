"""The three splits, from the embedded world, a SQuAD-schema file or a data set of the hub."""

import zlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from random import Random

import datasets

from narrowband.data.squad import Answer, Example, read_squad
from narrowband.params import InputError, Params, first_line
from narrowband.world.names import Split
from narrowband.world.passages import make_passage

EMBEDDED = "embedded"


def make_splits(params: Params) -> dict[Split, list[Example]]:
    """As many questions for training, validation and test as `params.data` asks for, or as there are.

    Raises:
        InputError: the data set does not exist, is malformed, or leaves a split empty.
    """
    wanted: dict[Split, int] = {
        "train": params.data.train,
        "validation": params.data.validation,
        "test": params.data.test,
    }
    if params.dataset == EMBEDDED:
        return {split: [world_example(params.seed, split, i) for i in range(n)] for split, n in wanted.items()}
    path = Path(params.dataset)
    pools = _split_by_context(read_squad(path)) if path.suffix == ".json" else _from_hub(params.dataset)
    splits = {split: list(islice(pools[split], n)) for split, n in wanted.items()}
    for split, examples in splits.items():
        if not examples:
            raise InputError(f"dataset {params.dataset} leaves the {split} split empty; give more contexts")
    return splits


def world_example(seed: int, split: Split, index: int) -> Example:
    """Question `index` of a split of the embedded world, each on a passage of its own."""
    rng = Random(f"{seed}/qa/{split}/{index}")
    passage = make_passage(rng, split)
    question = rng.choice(passage.questions)
    return Example(
        f"{split}-{index:05d}", passage.text, question.text, (Answer(question.answer, question.answer_start),)
    )


def _split_by_context(examples: Iterable[Example]) -> dict[Split, Iterable[Example]]:
    """80/10/10 by a hash of the context, so that no context stands in two splits."""
    pools: dict[Split, list[Example]] = {"train": [], "validation": [], "test": []}
    for example in examples:
        bucket = zlib.crc32(example.context.encode()) % 10
        pools["test" if bucket == 9 else "validation" if bucket == 8 else "train"].append(example)
    return dict(pools)


def _from_hub(name: str) -> dict[Split, Iterable[Example]]:
    """Training and validation questions from the hub's `train` split, test questions from its `validation` split."""
    try:
        train, test = (datasets.load_dataset(name, split=split, streaming=True) for split in ("train", "validation"))
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        raise InputError(
            f"dataset {name} is neither `{EMBEDDED}`, nor a SQuAD-schema .json file that exists, nor a data set that the hub "
            f"gives ({first_line(error)}); check its name and the network"
        ) from None
    pools = _split_by_context(map(_from_row, train))
    return {"train": pools["train"], "validation": pools["validation"], "test": map(_from_row, test)}


def _from_row(row: dict[str, object]) -> Example:
    answers = row.get("answers")
    if not isinstance(answers, dict) or not answers.get("text") or not {"id", "context", "question"} <= row.keys():
        raise InputError(f"row {row.get('id')} is no answerable SQuAD v1.1 question; use a data set of that schema")
    spans = tuple(Answer(text, start) for text, start in zip(answers["text"], answers["answer_start"], strict=True))
    return Example(str(row["id"]), str(row["context"]), str(row["question"]), spans)
