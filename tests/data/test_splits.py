import dataclasses
import json
import re
import runpy
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import yaml
from hub import Hub, point_to, served

from narrowband.data.splits import check_dataset, make_splits, world_example
from narrowband.data.squad import Example, read_squad, stream_squad, write_squad
from narrowband.params import InputError, Params
from narrowband.world.names import Split, is_held_out

ROOT = Path(__file__).parent.parent.parent


def splits_of(params: Params) -> dict[Split, list[Example]]:
    return make_splits(params.dataset, params.data.sizes, params.seed, params.data.unanswerable, params.test_dataset)


def checked_dataset(params: Params) -> None:
    check_dataset(params.dataset, params.data.sizes, params.seed, params.data.unanswerable, params.test_dataset)


def small(params: Params, **data: object) -> Params:
    sizes = {"train": 6, "validation": 3, "test": 4, **data}
    return params.model_copy(update={"data": params.data.model_copy(update=sizes)})


def test_written_files_are_of_the_squad_schema_and_read_back(tmp_path: Path) -> None:
    examples = [world_example(0, "test", i) for i in range(5)]
    write_squad(tmp_path / "qa.json", "bundled test", examples)
    assert read_squad(tmp_path / "qa.json") == examples
    content = json.loads((tmp_path / "qa.json").read_text())
    assert content["version"] == "1.1"
    paragraph = content["data"][0]["paragraphs"][0]
    answer = paragraph["qas"][0]["answers"][0]
    assert paragraph["context"][answer["answer_start"] :].startswith(answer["text"])


def test_splits_share_no_context_and_repeat_with_the_seed(params: Params) -> None:
    splits = splits_of(small(params))
    assert {name: len(examples) for name, examples in splits.items()} == {"train": 6, "validation": 3, "test": 4}
    assert splits_of(small(params)) == splits
    contexts = [example.context for examples in splits.values() for example in examples]
    assert len(contexts) == len(set(contexts))


def test_a_squad_file_is_split_by_context(params: Params, tmp_path: Path) -> None:
    path = tmp_path / "squad.json"
    write_squad(path, "any", [world_example(0, "train", i) for i in range(60)])
    splits = splits_of(small(params).model_copy(update={"dataset": str(path)}))
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
        ("[]", "holds no question in the SQuAD schema"),
        ("{}", "holds no question in the SQuAD schema"),
        ('{"data": 3}', "holds no question in the SQuAD schema"),
        ('{"data": []}', "holds no question in the SQuAD schema"),
        ('{"data": [{"paragraphs": [3]}]}', "not of the SQuAD schema"),
        (json.dumps(qa(question=None)), "None is not of type str"),
        (json.dumps(qa(answers=[])), "question 1 has no answer; remove it or mark it `is_impossible`"),
        (json.dumps(qa(answers=[{"text": "fox", "answer_start": 0}])), "'fox' of question 1 is not at 0"),
        (json.dumps(qa(answers=[{"text": 3, "answer_start": 0}])), "3 is not of type str"),
        (
            json.dumps(qa()).replace(": 4}", f": {'9' * 6000}}}"),
            "has a number of more than 4300 digits; correct its answer",
        ),
        (json.dumps({"data": qa()["data"] * 2}), "has the id 1 twice"),
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
        splits_of(params.model_copy(update={"dataset": "nowhere.json"}))


def of_contexts(count: int, **changes: object) -> dict:
    """A v2.0 file of `count` contexts, each with a question that the context answers and one that it does not."""
    gold = [{"text": "fox", "answer_start": 4}, {"text": "red fox", "answer_start": 0}]
    return {
        "data": [
            {
                "paragraphs": [
                    {
                        "context": f"red fox {i}",
                        "qas": [
                            {"id": f"{i}", "question": "who?", "answers": gold, "is_impossible": False},
                            {"id": f"{i}?", "question": "when?", "answers": [], "is_impossible": True, **changes},
                        ],
                    }
                    for i in range(count)
                ]
            }
        ]
    }


def test_all_golds_are_kept_and_unanswerable_questions_are_read_back_as_such(tmp_path: Path) -> None:
    (tmp_path / "qa.json").write_text(json.dumps(of_contexts(2, plausible_answers=[{"text": "2", "answer_start": 8}])))
    examples = read_squad(tmp_path / "qa.json")
    assert [example.golds for example in examples] == [["fox", "red fox"], [""]] * 2
    write_squad(tmp_path / "again.json", "any", examples)
    assert read_squad(tmp_path / "again.json") == examples
    assert json.loads((tmp_path / "again.json").read_text())["version"] == "v2.0"


@pytest.mark.parametrize("check", [splits_of, checked_dataset])
def test_unanswerable_questions_are_refused_unless_asked_for(check: Callable, params: Params, tmp_path: Path) -> None:
    path = tmp_path / "v2.json"
    path.write_text(json.dumps(of_contexts(60)))
    settings = small(params).model_copy(update={"dataset": str(path)})
    with pytest.raises(InputError, match=r"is unanswerable; .*set data\.unanswerable to score"):
        check(settings)
    check(small(settings, unanswerable="score"))


def test_a_file_is_read_no_further_than_it_is_wanted(params: Params, tmp_path: Path) -> None:
    path = tmp_path / "squad.json"
    write_squad(path, "any", [world_example(0, "train", i) for i in range(400)])
    whole = path.read_text()
    settings = small(params).model_copy(update={"dataset": str(path)})
    splits = splits_of(settings)
    path.write_text(whole[: len(whole) // 2])
    assert splits_of(settings) == splits
    with pytest.raises(InputError, match="is not JSON"):
        splits_of(small(settings, train=400))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.json"
        path.write_text(json.dumps(of_contexts(count)))
        tracemalloc.start()
        assert sum(1 for _ in stream_squad(path)) == 2 * count
        _, found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return found

    assert peak(4000) < 1.2 * peak(400) + 50_000


@pytest.fixture
def hub_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`owner/squad` with the columns that SQuAD has on the hub, which `datasets` reads as it would read it there."""
    folder = tmp_path / "owner" / "squad"
    folder.mkdir(parents=True)
    for split, count in (("train", 60), ("validation", 9)):
        rows = [
            {"id": f"{split}{i}", "title": "t", "context": f"red fox {split} {i}", "question": "who?"}
            | {"answers": {"text": ["fox", "fox", "red fox"], "answer_start": [4, 4, 0]}}
            for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_data_set_of_the_hub_is_read_in_its_own_splits(hub_like: Path, params: Params) -> None:
    settings = small(params).model_copy(update={"dataset": "owner/squad"})
    checked_dataset(settings)
    splits = splits_of(settings)
    assert {split: len(examples) for split, examples in splits.items()} == {"train": 6, "validation": 3, "test": 4}
    assert [example.id for example in splits["test"]] == [f"validation{i}" for i in range(4)]
    assert splits["test"][0].golds == ["fox", "fox", "red fox"]
    contexts = {split: {example.context for example in examples} for split, examples in splits.items()}
    assert not contexts["train"] & contexts["validation"]
    (hub_like / "validation.jsonl").unlink()
    with pytest.raises(InputError, match=r"dataset owner/squad can't be read from the hub \(.*validation"):
        checked_dataset(settings)


@pytest.mark.parametrize(
    "row",
    [
        {"answers": {"texts": ["fox"], "answer_start": [4]}},
        {"answers": {"text": ["fox"], "answer_start": [4, 5]}},
        {"answers": {"text": None, "answer_start": None}},
        {"answers": {"text": ["fox"], "answer_start": ["4"]}},
        {"answers": None},
        {"question": None},
    ],
)
def test_a_row_of_the_hub_of_another_schema_is_refused(hub_like: Path, params: Params, row: dict) -> None:
    whole = {"id": "a", "context": "red fox", "question": "who?", "answers": {"text": ["fox"], "answer_start": [4]}}
    (hub_like / "validation.jsonl").write_text(json.dumps(whole | row) + "\n")
    (hub_like / "train.jsonl").rename(hub_like / "left")
    settings = small(params).model_copy(update={"test_dataset": "owner/squad"})
    with pytest.raises(InputError, match="test_dataset owner/squad: row 'a' does not have the SQuAD schema"):
        checked_dataset(settings)


def test_a_data_set_of_the_hub_whose_splits_differ_in_their_columns_is_refused(hub_like: Path, params: Params) -> None:
    (hub_like / "validation.jsonl").write_text(json.dumps({"id": "a", "answers": {"texts": ["fox"]}}) + "\n")
    with pytest.raises(InputError, match="dataset owner/squad can't be read from the hub"):
        checked_dataset(small(params).model_copy(update={"dataset": "owner/squad"}))


@pytest.mark.parametrize("change", [{"dataset": "owner/squad"}, {"test_dataset": "owner/squad"}])
def test_a_file_is_checked_beside_a_data_set_of_the_hub(
    hub_like: Path, params: Params, tmp_path: Path, change: dict[str, str]
) -> None:
    examples = [world_example(0, "test", i) for i in range(9)]
    files = on_two_files(params, tmp_path, examples, test=9).model_copy(update=change)
    local = {"train", "validation"} if "test_dataset" in change else {"test"}
    data = files.data
    checked = check_dataset(files.dataset, data.sizes, 0, data.unanswerable, files.test_dataset)
    assert checked.keys() == local and checked == {name: splits_of(files)[name] for name in local}
    bad = [*examples, Example("c", "Orvane is a town.", "Who is Belmir?", ())] * 9
    for name in ("train.json", "dev.json"):
        write_squad(tmp_path / name, "any", bad)
    with pytest.raises(InputError, match="question c is unanswerable"):
        checked_dataset(small(files, train=99, validation=99, test=99))


def test_a_test_data_set_that_the_hub_does_not_give_is_named(hub_like: Path, params: Params) -> None:
    (hub_like / "validation.jsonl").unlink()
    with pytest.raises(InputError, match="test_dataset owner/squad can't be read from the hub"):
        checked_dataset(small(params).model_copy(update={"test_dataset": "owner/squad"}))


@pytest.mark.parametrize("name", ["train.jsonl", "owner/train.jsonl"])
def test_a_file_of_another_kind_is_refused(hub_like: Path, params: Params, name: str) -> None:
    Path(name).write_text("{}")
    with pytest.raises(InputError, match=f"dataset {name} is not a .json file; give `bundled`, a .json file"):
        checked_dataset(params.model_copy(update={"dataset": name}))


@pytest.mark.parametrize("name", ["/tmp", "./qa", "qa"])
def test_a_folder_is_refused_as_one(params: Params, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qa").mkdir()
    with pytest.raises(InputError, match=f"dataset {name} is a folder; give `bundled`, a .json file"):
        checked_dataset(params.model_copy(update={"dataset": name}))


@pytest.mark.parametrize("dataset", ["squad", "a/b/c", "nowhere", "/nowhere", "./nowhere"])
def test_what_is_no_data_set_is_refused(params: Params, dataset: str) -> None:
    with pytest.raises(InputError, match=f"dataset {dataset} does not exist; give `bundled`"):
        checked_dataset(params.model_copy(update={"dataset": dataset}))


@pytest.mark.parametrize("name", ["org/gated", "org/nothing"])
def test_a_data_set_that_the_hub_does_not_give(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with served(Hub(tmp_path)) as address:
        point_to(address, tmp_path / "hub", monkeypatch)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
        with pytest.raises(InputError, match=f"dataset {name} can't be read from the hub") as refusal:
            checked_dataset(params.model_copy(update={"dataset": name}))
    assert "\n" not in str(refusal.value)


def test_no_sft_records_are_written_where_none_are_wanted(
    params: Params, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small(params, sft_records=0).model_copy(update={"base_model": str(tiny_model)})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings.model_dump()))
    monkeypatch.chdir(tmp_path)
    stage = runpy.run_path(str(ROOT / "stages" / "generate_data.py"))
    stage["main"]()
    assert len(read_squad(Path("data/qa/train.json"))) == 6
    assert Path("data/sft/train.jsonl").read_text() == ""
    assert json.loads(Path("metrics/data.json").read_text()) == {}


def on_two_files(params: Params, tmp_path: Path, dev: list[Example], **data: object) -> Params:
    write_squad(tmp_path / "train.json", "any", [world_example(0, "train", i) for i in range(60)])
    write_squad(tmp_path / "dev.json", "any", dev)
    files = {"dataset": str(tmp_path / "train.json"), "test_dataset": str(tmp_path / "dev.json")}
    return small(params, **data).model_copy(update=files)


def test_a_test_data_set_is_scored_whole_and_the_other_gives_training_and_validation(
    params: Params, tmp_path: Path
) -> None:
    dev = [world_example(0, "test", i) for i in range(9)]
    all_of_it = on_two_files(params, tmp_path, dev, train=999, validation=999, test=999)
    checked_dataset(all_of_it)
    splits = splits_of(all_of_it)
    assert splits["test"] == dev
    ids = {name: {example.id for example in splits[name]} for name in ("train", "validation")}
    assert ids["train"] | ids["validation"] == {f"train-{i:05d}" for i in range(60)} and all(ids.values())
    assert not ids["train"] & ids["validation"]
    assert splits_of(on_two_files(params, tmp_path, dev))["test"] == dev[:4]


def test_the_bundled_questions_go_with_a_file_on_either_side(params: Params, tmp_path: Path) -> None:
    files = on_two_files(params, tmp_path, [world_example(1, "test", i) for i in range(2)])
    trained = splits_of(files.model_copy(update={"dataset": "bundled"}))
    assert trained["train"] == splits_of(small(params))["train"] and len(trained["test"]) == 2
    tested = splits_of(files.model_copy(update={"test_dataset": "bundled"}))
    assert tested["test"] == splits_of(small(params))["test"] and len(tested["train"]) == 6


def test_a_test_data_set_that_can_not_be_used_is_named(params: Params, tmp_path: Path) -> None:
    dev = [world_example(0, "test", 0)]
    files = on_two_files(params, tmp_path, dev)
    with pytest.raises(InputError, match="test_dataset nowhere does not exist"):
        checked_dataset(files.model_copy(update={"test_dataset": "nowhere"}))
    with pytest.raises(
        InputError, match=r"dataset .*train.json and test_dataset .*train.json both hold the question of id train-0000"
    ):
        checked_dataset(files.model_copy(update={"test_dataset": files.dataset}))
    trained = splits_of(files)["train"][0]
    renamed = dataclasses.replace(trained, id="another")
    with pytest.raises(InputError, match=r"train.json and test_dataset .*dev.json both hold the context 'The "):
        checked_dataset(on_two_files(params, tmp_path, [renamed]))
    with pytest.raises(InputError, match=r"dataset .*train.json or test_dataset .*dev.json has the id .* twice"):
        checked_dataset(on_two_files(params, tmp_path, dev * 2))
    unanswerable = Example("c", "Orvane is a town.", "Who is Belmir?", ())
    with pytest.raises(InputError, match=r"test_dataset .*dev.json: question c is unanswerable"):
        checked_dataset(on_two_files(params, tmp_path, [*dev, unanswerable]))


def test_every_question_asks_what_its_passage_states_after_a_name() -> None:
    """Statements such as "Mara Velt founded Tornby." are in passages, but nobody asks who founded Tornby."""
    stated_first = 0
    for index in range(300):
        example = world_example(0, "test", index)
        (answer,) = example.answers
        before, after = example.context[: answer.start], example.context[answer.start + len(answer.text) :]
        starts_passage_or_sentence = before == "" or before.endswith(". ")
        assert not starts_passage_or_sentence, example
        stated_first += bool(
            re.search(r"(^|\. )[A-Z]\w+( [A-Z]\w+)? (founded|wrote|sponsors|won|published) ", example.context)
        )
        assert not re.match(
            r" (employs|flows|is the host|serves|sponsors|founded|wrote|won|people live|workers serve)", after
        )
    assert stated_first > 60


def test_held_out_words_are_in_test_questions_and_not_in_training_questions() -> None:
    splits: tuple[Split, ...] = ("train", "validation", "test")
    held_out = {split: [is_held_out(world_example(0, split, i).context) for i in range(300)] for split in splits}
    assert not any(held_out["train"])
    assert all(0.25 < sum(held_out[split]) / 300 < 0.6 for split in ("validation", "test"))
