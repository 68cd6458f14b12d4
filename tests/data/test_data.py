import json
from pathlib import Path

import pytest

from narrowband.data.qa import make_splits, world_example
from narrowband.data.squad import read_squad, write_squad
from narrowband.params import InputError, Params


def small(params: Params, **data: int) -> Params:
    sizes = {"train": 6, "validation": 3, "test": 4, **data}
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
