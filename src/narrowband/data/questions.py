"""The question splits of a run, and the prompt settings that hold for all of them."""

from typing import Any, NamedTuple

from narrowband.data.legible import require_legible
from narrowband.data.prompts import check_questions
from narrowband.data.settled import asked_for, draw_shots, require_bos, settle, write_settled
from narrowband.data.splits import make_splits
from narrowband.data.squad import Example, write_squad
from narrowband.lm.base_model import load_tokenizer
from narrowband.params import Params
from narrowband.runtime import paths
from narrowband.runtime.artifacts import write_config
from narrowband.runtime.entry import console


class Questions(NamedTuple):
    """Training questions that were set aside, the test split, and how BOS was decided."""

    apart: list[Example]
    test: list[Example]
    decided: dict[str, Any]


def write_questions(params: Params, apart: int) -> Questions:
    """Write the three splits and the settled prompt to `data/qa`; `apart` more training questions are set aside.

    Raises:
        InputError: there are too few questions, one can't be asked, the tokenizer can't write them, or BOS can't be had as asked.
    """
    data, prompt = params.data, params.prompt
    wanted = {**data.sizes, "train": data.train + apart}
    splits = make_splits(params.dataset, wanted, params.seed, data.unanswerable, params.test_dataset)
    set_aside = splits["train"][data.train :]
    drawn = draw_shots(splits["train"][: data.train], prompt.shots, params.seed)
    splits["train"] = drawn.train
    tokenizer = load_tokenizer(params.base_model)
    require_bos("prompt.bos", prompt.bos, tokenizer)
    settled, decided = settle(prompt, drawn, params.base_model)
    for examples in splits.values():
        check_questions(tokenizer, examples, settled)
    require_legible(tokenizer, splits.values())
    console.print(f"prompts: BOS {settled.bos}, {len(drawn.shots)} worked examples")
    datasets = dict.fromkeys(splits, params.dataset) | {"test": params.test_dataset or params.dataset}
    for split, examples in splits.items():
        write_squad(paths.QA / f"{split}.json", f"{datasets[split]} {split}", examples)
        fewer = f" (data.{split} asks for {data.sizes[split]})" if len(examples) < data.sizes[split] else ""
        console.print(f"{split}: {len(examples)} questions{fewer}")
    write_settled(settled)
    made_with = {"seed": params.seed, "dataset": params.dataset, "test_dataset": params.test_dataset}
    write_config(paths.QA, {**made_with, "data": data.sizes, **asked_for(prompt)})
    return Questions(set_aside, splits["test"], decided)
