import dataclasses
import hashlib
import json
import re
import runpy
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pytest
import yaml
from hub import COMMIT, Hub, point_to, served

from narrowband.data.dataset_revision import dataset_revision
from narrowband.data.splits import check_dataset, make_splits, world_example
from narrowband.data.squad import Example, read_squad, stream_squad, write_squad
from narrowband.params import InputError, Params
from narrowband.world.names import Split, is_held_out

ROOT = Path(__file__).parent.parent.parent
NOWHERE = "http://127.0.0.1:9"


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

    assert peak(1200) < 1.2 * peak(300) + 50_000


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub whose `org/tiny` has the columns of SQuAD."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for split, count in (("train", 60), ("validation", 9)):
        rows = [
            {"id": f"{split}{i}", "title": "t", "context": f"red fox {split} {i}", "question": "who?"}
            | {"answers": {"text": ["fox", "fox", "red fox"], "answer_start": [4, 4, 0]}}
            for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the libraries' attempts
    hub = Hub(folder)
    with served(hub) as address:
        connect(address, tmp_path, monkeypatch)
        yield hub


def connect(address: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_to(address, folder / "hub", monkeypatch)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)


def test_a_data_set_of_the_hub_is_read_in_its_own_splits(hub: Hub, params: Params) -> None:
    settings = small(params).model_copy(update={"dataset": "org/tiny"})
    checked_dataset(settings)
    splits = splits_of(settings)
    assert {split: len(examples) for split, examples in splits.items()} == {"train": 6, "validation": 3, "test": 4}
    assert [example.id for example in splits["test"]] == [f"validation{i}" for i in range(4)]
    assert splits["test"][0].golds == ["fox", "fox", "red fox"]
    contexts = {split: {example.context for example in examples} for split, examples in splits.items()}
    assert not contexts["train"] & contexts["validation"]
    (hub.folder / "validation.jsonl").unlink()
    with pytest.raises(InputError, match=r"dataset org/tiny can't be read from the hub \(.*validation"):
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
def test_a_row_of_the_hub_of_another_schema_is_refused(hub: Hub, params: Params, row: dict) -> None:
    whole = {"id": "a", "context": "red fox", "question": "who?", "answers": {"text": ["fox"], "answer_start": [4]}}
    (hub.folder / "validation.jsonl").write_text(json.dumps(whole | row) + "\n")
    (hub.folder / "train.jsonl").rename(hub.folder / "left")
    settings = small(params).model_copy(update={"test_dataset": "org/tiny"})
    with pytest.raises(InputError, match="test_dataset org/tiny: row 'a' does not have the SQuAD schema"):
        checked_dataset(settings)


def test_a_data_set_of_the_hub_whose_splits_differ_in_their_columns_is_refused(hub: Hub, params: Params) -> None:
    (hub.folder / "validation.jsonl").write_text(json.dumps({"id": "a", "answers": {"texts": ["fox"]}}) + "\n")
    with pytest.raises(InputError, match="dataset org/tiny can't be read from the hub"):
        checked_dataset(small(params).model_copy(update={"dataset": "org/tiny"}))


@pytest.mark.parametrize("change", [{"dataset": "org/tiny"}, {"test_dataset": "org/tiny"}])
def test_a_file_is_checked_beside_a_data_set_of_the_hub(
    hub: Hub, params: Params, tmp_path: Path, change: dict[str, str]
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


def test_a_test_data_set_that_the_hub_does_not_give_is_named(hub: Hub, params: Params) -> None:
    (hub.folder / "validation.jsonl").unlink()
    with pytest.raises(InputError, match="test_dataset org/tiny can't be read from the hub"):
        checked_dataset(small(params).model_copy(update={"test_dataset": "org/tiny"}))


@pytest.mark.parametrize("name", ["train.jsonl", "owner/train.jsonl"])
def test_a_file_of_another_kind_is_refused(
    params: Params, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("owner").mkdir()
    Path(name).write_text("{}")
    with pytest.raises(InputError, match=f"dataset {name} is not a .json file; give `bundled`, a .json file"):
        checked_dataset(params.model_copy(update={"dataset": name}))


@pytest.mark.parametrize("name", ["/tmp", "./qa", "qa", "owner/qa"])
def test_a_folder_is_refused_as_one(params: Params, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qa").mkdir()
    (tmp_path / "owner" / "qa").mkdir(parents=True)
    with pytest.raises(InputError, match=f"dataset {name} is a folder; give `bundled`, a .json file"):
        checked_dataset(params.model_copy(update={"dataset": name}))


@pytest.mark.parametrize("dataset", ["squad", "a/b/c", "nowhere", "/nowhere", "./nowhere"])
def test_what_is_no_data_set_is_refused(params: Params, dataset: str) -> None:
    with pytest.raises(InputError, match=f"dataset {dataset} does not exist; give `bundled`"):
        checked_dataset(params.model_copy(update={"dataset": dataset}))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("org/gated", "can't be read from the hub"),
        ("org/nothing", "is not on the hub, or is private; check its name, or log in with `hf auth login`"),
        ("org/tiny@v9", "has no revision v9; give a branch, tag or commit of org/tiny"),
    ],
)
def test_a_data_set_that_the_hub_does_not_give(hub: Hub, params: Params, name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=f"^dataset {name} {sentence}") as refusal:
        checked_dataset(params.model_copy(update={"dataset": name}))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("revision", ["", "@main", "@v1", f"@{COMMIT}"])
def test_a_data_set_of_the_hub_is_read_at_the_commit_that_is_recorded(hub: Hub, params: Params, revision: str) -> None:
    name = f"org/tiny{revision}"
    hub.named = [revision.removeprefix("@") or "main"]
    assert dataset_revision("dataset", name) == f"commit:{COMMIT}"
    splits_of(small(params).model_copy(update={"dataset": name}))
    read = [asked for asked in hub.asked if asked.endswith(".jsonl")]
    assert read and all(f"/resolve/{COMMIT}/" in asked for asked in read)


def test_a_changed_data_set_of_the_hub_has_another_revision(hub: Hub, params: Params) -> None:
    settings = small(params).model_copy(update={"dataset": "org/tiny"})
    before = dataset_revision("dataset", "org/tiny"), splits_of(settings)
    change_on(hub)
    after = dataset_revision("dataset", "org/tiny"), splits_of(settings)
    assert after[0] == f"commit:{hub.commit}" != before[0]
    assert after[1]["train"] != before[1]["train"] and after[1]["test"] == before[1]["test"]


def change_on(hub: Hub) -> None:
    hub.commit = COMMIT[::-1]
    path = hub.folder / "train.jsonl"
    path.write_text(path.read_text().replace("who?", "who is it?"))


def test_without_the_hub_a_revision_is_the_last_one_known(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = dataset_revision("dataset", "org/tiny")
    connect(NOWHERE, tmp_path, monkeypatch)
    assert dataset_revision("dataset", "org/tiny") == known
    assert dataset_revision("dataset", f"org/other@{COMMIT}") == known
    for name in ("org/tiny@v1", "org/other"):
        with pytest.raises(InputError, match=f"^dataset {name} has not been read and the hub can't be reached; check"):
            dataset_revision(f"dataset {name}", name)


def test_without_the_hub_only_the_same_commit_is_read_from_the_cache_of_datasets(
    hub: Hub, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small(params).model_copy(update={"dataset": "org/tiny"})
    expected = splits_of(settings)
    datasets.load_dataset("org/tiny")
    with monkeypatch.context() as offline:
        connect(NOWHERE, tmp_path, offline)
        assert splits_of(settings) == expected
    change_on(hub)
    dataset_revision("dataset", "org/tiny")
    connect(NOWHERE, tmp_path, monkeypatch)
    with pytest.raises(
        InputError, match=f"is at commit {hub.commit} and only another one, {COMMIT}, is on this machine"
    ):
        splits_of(settings)


def test_the_revision_of_what_is_not_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "folder").mkdir(parents=True)
    for name in ("bundled", "owner/gone.json", "owner/folder", "./gone/name", "a/b/c"):
        assert dataset_revision("dataset", name) == name
    (tmp_path / "qa.json").write_text("{}")
    assert dataset_revision("dataset", "qa.json") == f"sha256:{hashlib.sha256(b'{}').hexdigest()}"


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
