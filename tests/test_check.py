"""What `check` sees before any output is replaced, and no other stage's table of bad input has."""

import json
import platform
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from families import SIZES, save
from tiny_project import ROOT, change, make_project
from transformers import ElectraConfig

from narrowband.data import dataset_revision, splits
from narrowband.data.splits import world_example
from narrowband.data.squad import write_squad
from narrowband.experiments import examine
from narrowband.params import InputError, Params
from narrowband.runtime import paths


@pytest.fixture
def project(tmp_path: Path, stopping_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose name is not ASCII, with a data set of 60 questions."""
    folder = tmp_path / "größe"
    folder.mkdir()
    make_project(folder, stopping_model)
    write_squad(folder / "qa.json", "any", [world_example(0, "train", i) for i in range(60)])
    change(folder, {"dataset": "qa.json"})
    monkeypatch.chdir(folder)
    return folder


def check() -> None:
    runpy.run_path(str(ROOT / "stages" / "check.py"))["main"]()


def test_a_folder_that_dvc_can_not_name_in_a_copy_is_mentioned(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check()
    assert "DVC's --temp and queue fail in" in capsys.readouterr().out


@pytest.mark.parametrize("encoder", ["pretrained", "scratch"])
def test_a_model_without_a_part_that_a_reader_copies_is_refused(project: Path, encoder: str) -> None:
    config = ElectraConfig(
        **SIZES, num_attention_heads=2, max_position_embeddings=640, embedding_size=16, is_decoder=True
    )
    save(config, project / "electra")
    reader = {"encoder": encoder, "tokens_per_position": 2}
    change(project, {"base_model": "electra", "reader": reader})
    with pytest.raises(
        InputError, match=r"reader.encoder pretrained or scratch can't be used with a ElectraForCausalLM"
    ):
        check()
    for other in ({"encoder": "embeddings"}, {"tokens_per_position": 1}):
        change(project, {"reader": {**reader, **other}})
        check()


def test_what_sft_records_alone_need_is_asked_for_only_where_there_are_any(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (project / "models" / "base").glob("*token*.json"):
        file.write_text(file.read_text().replace("<|bos|>", "<|im_start|>"))
    change(
        project, {"generation": {"backend": "vllm"}, "data": {"bos": "text", "sft_records": 0, "phase2_sft_share": 0}}
    )
    check()
    change(project, {"data": {"sft_records": 8}})
    with pytest.raises(InputError, match=r"generation.backend vllm needs vLLM"):
        check()
    change(project, {"generation": {"backend": "transformers"}})
    with pytest.raises(
        InputError, match=r"data.bos is text, but BOS of this base model is <\|im_start\|>, a chat delim"
    ):
        check()


def test_another_machine_is_examined_once_more(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examined: list[Params] = []
    monkeypatch.setattr(examine, "examine", examined.append)
    for machine in ("here", "here", "there"):
        monkeypatch.setattr(platform, "node", lambda machine=machine: machine)
        check()
    assert len(examined) == 2


@pytest.mark.parametrize("kept", ["", "[", "[]"])
def test_a_damaged_record_of_the_last_check_counts_as_none(project: Path, kept: str) -> None:
    check()
    passed = project / ".checkpoints" / "checked.json"
    whole = passed.read_text()
    passed.write_text(kept)
    check()
    assert passed.read_text() == whole


@pytest.mark.parametrize("dataset", ["qa.json", "bundled"])
def test_too_few_training_windows_are_refused(project: Path, dataset: str) -> None:
    change(project, {"dataset": dataset, "data": {"train": 1}, "compress_dim": 100})
    with pytest.raises(InputError, match="compress_dim 100 needs more than 100 training windows but there are"):
        check()


def test_a_file_is_examined_beside_a_data_set_of_the_hub(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "_rows", lambda *args: iter([world_example(0, "test", 0)]))
    monkeypatch.setattr(dataset_revision, "commit", lambda where, name: f"{where} as of now")
    change(project, {"test_dataset": "owner/squad", "data": {"train": 1}, "compress_dim": 100})
    with pytest.raises(InputError, match="compress_dim 100 needs more than 100 training windows but there are"):
        check()
    change(project, {"dataset": "owner/squad", "test_dataset": "qa.json", "data": {"test": 99}})
    check()
    recorded = json.loads(paths.CHECKED.read_text())
    assert recorded["dataset"] == "commit:dataset owner/squad as of now"
    assert recorded["test_dataset"].startswith("sha256:")
    write_squad(project / "qa.json", "any", [replace(world_example(0, "train", 0), question="why " * 600)])
    with pytest.raises(InputError, match=r"question train-00000: prompt.max_length 512 leaves no room for a question"):
        check()


def test_a_question_too_long_for_a_prompt_is_refused_with_its_id(project: Path) -> None:
    content = json.loads((project / "qa.json").read_text())
    qa = content["data"][0]["paragraphs"][0]["qas"][0]
    qa["question"] = "why " * 600
    (project / "qa.json").write_text(json.dumps(content))
    with pytest.raises(
        InputError, match=f"question {qa['id']}: prompt.max_length 512 leaves no room for a question of"
    ):
        check()


def test_a_tokenizer_that_drops_line_breaks_is_refused(project: Path) -> None:
    shutil.copytree(project / "models/base", project / "models/stripping")
    path = project / "models/stripping/tokenizer.json"
    normalizer = {"type": "Strip", "strip_left": True, "strip_right": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": normalizer}))
    change(project, {"base_model": "models/stripping"})
    with pytest.raises(InputError, match="the tokenizer of this base model drops line breaks"):
        check()
