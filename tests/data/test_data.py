import json
from pathlib import Path
from random import Random

import pytest

from narrowband.data.qa import make_splits, world_example
from narrowband.data.sft import few_shot_prompt, generate_records, read_pool
from narrowband.data.squad import read_squad, write_squad
from narrowband.lm import FrozenLM
from narrowband.params import InputError, Params
from narrowband.world.completions import HEADER

ROOT = Path(__file__).parent.parent.parent


def small(params: Params, **data: int) -> Params:
    sizes = {"train": 6, "validation": 3, "test": 4, "sft_records": 5, "sft_max_new_tokens": 6, **data}
    return params.model_copy(update={"data": params.data.model_copy(update=sizes)})


def test_written_files_are_of_the_squad_schema_and_read_back(tmp_path: Path) -> None:
    examples = [world_example(0, "test", i) for i in range(5)]
    write_squad(tmp_path / "qa.json", "embedded test", examples)
    assert read_squad(tmp_path / "qa.json") == examples
    content = json.loads((tmp_path / "qa.json").read_text())
    assert content["version"] == "1.1"
    paragraph = content["data"][0]["paragraphs"][0]
    answer = paragraph["qas"][0]["answers"][0]
    assert paragraph["context"][answer["answer_start"] :].startswith(answer["text"])


def test_splits_share_no_context_and_repeat_with_the_seed(params: Params) -> None:
    splits = make_splits(small(params))
    assert {name: len(examples) for name, examples in splits.items()} == {"train": 6, "validation": 3, "test": 4}
    assert make_splits(small(params)) == splits
    contexts = [example.context for examples in splits.values() for example in examples]
    assert len(contexts) == len(set(contexts))


def test_a_squad_file_is_split_by_context(params: Params, tmp_path: Path) -> None:
    path = tmp_path / "squad.json"
    write_squad(path, "any", [world_example(0, "train", i) for i in range(60)])
    splits = make_splits(small(params).model_copy(update={"dataset": str(path)}))
    ids = {name: {example.id for example in examples} for name, examples in splits.items()}
    assert all(ids.values())
    assert not ids["train"] & ids["test"] and not ids["train"] & ids["validation"]


def qa(**changes: object) -> dict:
    entry = {"id": "1", "question": "q", "answers": [{"text": "fox", "answer_start": 4}], **changes}
    return {"data": [{"paragraphs": [{"context": "red fox", "qas": [entry]}]}]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[]", "not of the SQuAD schema"),
        ("{}", "not of the SQuAD schema"),
        ('{"data": 3}', "not of the SQuAD schema"),
        ('{"data": []}', "holds no question"),
        (json.dumps(qa(answers=[])), "question 1 has no answer"),
        (json.dumps(qa(answers=[{"text": "fox", "answer_start": 0}])), "'fox' of question 1 is not at 0"),
        (json.dumps(qa(answers=[{"text": 3, "answer_start": 0}])), "3 is no str"),
        (json.dumps({"data": qa()["data"] * 2}), "has id 1 twice"),
    ],
)
def test_empty_and_malformed_files_are_refused(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "qa.json"
    path.write_text(content)
    with pytest.raises(InputError, match=sentence) as refusal:
        read_squad(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_data_set_that_does_not_exist_is_refused(params: Params) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json does not exist"):
        make_splits(params.model_copy(update={"dataset": "nowhere.json"}))


def test_the_pool_has_enough_examples_of_every_category_and_no_role_words() -> None:
    pool = read_pool(ROOT / "pools" / "few_shot.yaml")
    assert len(pool) >= 30 and len({example.id for example in pool}) == len(pool)
    assert {example.category for example in pool} == {"math", "completion", "fact", "creative", "explanation"}


def test_few_shot_prompts_end_with_the_instruction_and_never_show_its_answer() -> None:
    pool = read_pool(ROOT / "pools" / "few_shot.yaml")
    prompts = [few_shot_prompt(pool, pool[0].instruction, Random(seed)) for seed in range(50)]
    for prompt, ids in prompts:
        assert prompt.startswith(HEADER + "\n\n") and prompt.endswith(f"\n\n{pool[0].instruction}\n")
        assert len(ids) in (3, 4) and pool[0].id not in ids
    assert len({tuple(ids) for _, ids in prompts}) > 40


def test_stored_prompts_are_what_was_fed_and_a_chat_template_changes_nothing(lm: FrozenLM, params: Params) -> None:
    fed: list[str] = []
    generate = lm.model.generate

    def spy(**arguments):
        for row, mask in zip(arguments["inputs_embeds"], arguments["attention_mask"], strict=True):
            distance = (row[mask.bool()][:, None] - lm.vocabulary[None]).square().sum(-1)
            fed.append(lm.tokenizer.decode(distance.argmin(-1)))
        return generate(**arguments)

    pool = read_pool(ROOT / "pools" / "few_shot.yaml")
    settings = small(params)
    lm.model.generate = spy
    try:
        records = list(generate_records(lm, settings, pool, lambda n: None))
        lm.tokenizer.chat_template = "{{ 'You are a helpful assistant' }}"
        templated = list(generate_records(lm, settings, pool, lambda n: None))
    finally:
        del lm.model.generate
        lm.tokenizer.chat_template = None
    assert len(records) == 5
    assert {record["prompt"] for record in records} <= set(fed)
    assert all(record["response"] for record in records)
    assert records == templated


@pytest.mark.parametrize("content", ["3", "- {id: a}", "- {id: a, category: b, instruction: c, completion: d}", "a: ["])
def test_a_pool_that_is_no_pool_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "pool.yaml").write_text(content)
    with pytest.raises(InputError, match="few-shot pool"):
        read_pool(tmp_path / "pool.yaml")
