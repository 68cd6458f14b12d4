"""The stage's own path on a real (tiny) model: files, provenance, template, SIGKILL."""

import hashlib
import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from sft_fakes import make_inputs, small
from tiny_project import FORKS

from narrowband.data.splits import world_example
from narrowband.params import InputError, Params
from narrowband.sft import write
from narrowband.sft.audit import audit
from narrowband.sft.backend import TransformersBackend
from narrowband.sft.counts import Counts, wilson
from narrowband.sft.filters import Contamination
from narrowband.sft.journal import Journal
from narrowband.sft.model import Limits
from narrowband.sft.pool import read_pool

ROOT = Path(__file__).parent.parent.parent
FILES = ("train.jsonl", "rejected.jsonl", "manifest.json", "README.md")


@pytest.fixture
def settings(params: Params, stopping_model: Path) -> Params:
    pools = {name: str(ROOT / getattr(params.data, name)) for name in ("few_shot_pool", "instruction_pool")}
    return small(params, **pools).model_copy(update={"base_model": str(stopping_model)})


def generate(params: Params, folder: Path) -> dict:
    """Write the files of a run to `folder`; its headline."""
    limits = Limits(params.generation.batch_size, params.prompt.max_length)
    settings = write.Settings(
        params.base_model, "transformers", limits, params.seed, params.data, {"seed": params.seed}
    )
    journal = Journal(folder / "journal.jsonl", repr(params))
    return write.headline(write.write_sft(settings, make_inputs(params), folder / "sft", journal))


def manifest(folder: Path) -> dict:
    return json.loads((folder / "sft" / "manifest.json").read_text())


def contents(folder: Path) -> dict[str, object]:
    """What a run wrote."""
    return {name: (folder / "sft" / name).read_bytes() for name in FILES}


def test_records_provenance_and_card_are_written_and_the_folder_loads(settings: Params, tmp_path: Path) -> None:
    figures = generate(settings, tmp_path)
    assert figures["broken"] == 0 and 0 < figures["kept"] <= 1
    assert not (tmp_path / "journal.jsonl").exists()
    said = manifest(tmp_path)
    assert said["fingerprint"] == repr(settings) and said["libraries"]["torch"]
    assert said["parameters"] == {"seed": settings.seed} and said["counts"]["kept"] == 12
    for name, found in said["sha256"].items():
        path = tmp_path / "sft" / name if name in FILES else ROOT / name
        assert found == hashlib.sha256(path.read_bytes()).hexdigest()

    loaded = load_dataset(str(tmp_path / "sft"), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train"} and len(loaded["train"]) == 12 and "reason" not in loaded["train"].column_names
    assert loaded["train"][0]["model"]["revision"] == said["model"]["revision"]
    rejected = load_dataset(str(tmp_path / "sft"), "rejected", cache_dir=str(tmp_path / "cache"))["train"]
    assert sum(said["counts"]["rejected"].values()) == len(rejected) > 0 and all(rejected["reason"])


def test_a_chat_template_changes_not_a_byte(settings: Params, stopping_model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(stopping_model, bare)
    for file in bare.glob("*template*"):
        file.unlink()
    config = json.loads((bare / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(config))
    assert len(list(stopping_model.glob("*template*"))) == 1  # and the other one has a template
    generate(settings, tmp_path / "with")
    generate(settings.model_copy(update={"base_model": str(bare)}), tmp_path / "without")
    with_template, without = ((tmp_path / name / "sft" / "train.jsonl").read_text() for name in ("with", "without"))
    models = [
        {json.dumps(json.loads(line)["model"]) for line in text.splitlines()} for text in (with_template, without)
    ]
    assert with_template.replace(models[0].pop(), "") == without.replace(models[1].pop(), "")


def test_an_obedient_model_is_warned_of_loudly(
    settings: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = write.ask_sentinels
    monkeypatch.setattr(write, "ask_sentinels", lambda *given: ask(*given)._replace(answered=1.0))
    assert generate(settings, tmp_path)["model_kind"] == "instruction-tuned"
    assert "WARNING" in (text := capsys.readouterr().out) and "looks instruction-tuned" in text


@pytest.mark.parametrize("setting", ["auto", "text", "none"])
def test_the_decision_on_bos_and_what_it_rests_on_are_stated_everywhere(
    setting: str, settings: Params, tmp_path: Path
) -> None:
    data = settings.data.model_copy(update={"bos": setting})
    figures = generate(settings.model_copy(update={"data": data}), tmp_path)
    said = manifest(tmp_path)["bos_choice"]
    assert {figures["bos_added"]} == {said["added"]} <= {{"auto": said["added"], "text": True, "none": False}[setting]}
    assert figures["log_likelihood_with_bos"] == said["with_bos"] < 0 > figures["log_likelihood_without_bos"]
    lines = (tmp_path / "sft" / "train.jsonl").read_text().splitlines()
    assert {json.loads(line)["bos"] for line in lines} == {"<|bos|>" if said["added"] else None}
    assert not any("<|bos|>" in json.loads(line)["prompt"] for line in lines)


def test_a_chat_delimiter_is_not_added_even_if_asked_for(
    settings: Params, stopping_model: Path, tmp_path: Path
) -> None:
    chat = tmp_path / "chat"
    shutil.copytree(stopping_model, chat)
    for file in chat.glob("*token*.json"):
        file.write_text(file.read_text().replace("<|bos|>", "<|im_start|>"))
    data = settings.data.model_copy(update={"bos": "text"})
    with pytest.raises(
        InputError, match=r"BOS of this base model is <\|im_start\|>, a chat delimiter; set data.bos to auto"
    ):
        generate(settings.model_copy(update={"base_model": str(chat), "data": data}), tmp_path)


def generate_slowly(params: Params, folder: Path) -> None:
    torch.set_num_threads(1)
    complete = TransformersBackend.complete
    TransformersBackend.complete = lambda self, *a: (time.sleep(0.2), complete(self, *a))[1]
    generate(params, folder)


def test_a_run_killed_by_sigkill_and_started_again_writes_the_same_bytes(settings: Params, tmp_path: Path) -> None:
    figures = generate(settings, tmp_path / "whole")
    journal = tmp_path / "killed" / "journal.jsonl"
    run = FORKS.Process(target=generate_slowly, args=(settings, tmp_path / "killed"))
    run.start()
    try:
        while run.is_alive() and (not journal.exists() or journal.read_bytes().count(b'"eos"') < 8):
            time.sleep(0.02)
    finally:
        run.kill()
        run.join()
    assert run.exitcode == -signal.SIGKILL and journal.exists()
    assert not (tmp_path / "killed" / "sft" / "train.jsonl").exists()  # nothing half written has its name
    assert generate(settings, tmp_path / "killed") == figures
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"prompt": "Instruction: What is fog?\nResponse:"}, {"prompts"}),  # as the original generator stored it
        ({"few_shot_ids": ["math-01"]}, {"prompts"}),
        ({"formatted_text": "What is fog?"}, {"formatted_texts"}),
        ({"response": "A: cloud"}, {"formatted_texts", "delimiters"}),
        ({}, set()),
    ],
)
def test_the_audit_finds_what_is_not_as_claimed(change: dict, broken: set[str], tmp_path: Path, params: Params) -> None:
    pool = {example.id: example for example in read_pool(ROOT / params.data.few_shot_pool)}
    record = {
        "instruction": "What is fog?",
        "instruction_type": "qa",
        "prompt": "Q: What is fog?\nA:",
        "response": "A cloud",
        "formatted_text": "Q: What is fog?\nA: A cloud",
        "few_shot_ids": [],
    }
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({**record, **change}) + "\n")
    test = Contamination([world_example(0, "test", 0)])
    assert {name for name, count in audit(path, pool, test).items() if count} == broken
    text = world_example(0, "test", 0).context
    copied = {**record, "response": text, "formatted_text": f"Q: What is fog?\nA: {text}"}
    path.write_text((json.dumps(copied) + "\n") * 2)
    assert audit(path, pool, test) == {
        "prompts": 0,
        "formatted_texts": 0,
        "delimiters": 0,
        "test_overlaps": 2,
        "duplicates": 1,
    }


def test_wilson_intervals() -> None:
    # Wilson (1927) for 5 of 10 and 0 of 20 at z = 1.96.
    assert wilson(5, 10) == pytest.approx({"share": 0.5, "low": 0.2366, "high": 0.7634}, abs=1e-4)
    assert wilson(0, 20) == pytest.approx({"share": 0.0, "low": 0.0, "high": 0.1611}, abs=1e-4)
    assert wilson(0, 0) == {"share": 0.0, "low": 0.0, "high": 1.0}


def test_candidates_are_counted() -> None:
    counts = Counts()
    kept = {"instruction_type": "qa", "instruction_source": "pool", "response": "a b a b", "completion": "a b a b\nQ:"}
    for record, reason in [(kept, None), (kept, None), (kept, "surplus"), ({"completion": "a"}, "length_limit")]:
        counts.add(record, reason)
    figures = counts.figures()
    assert figures["counts"]["kept"] == 2 and figures["counts"]["types"]["qa"] == 2
    assert {name: share["share"] for name, share in figures["shares"].items()} == {
        "kept": 0.75,
        "critic": 1.0,
        "length_limit": 0.25,
        "runaway": 0.75,
    }
    assert figures["response_words"] == {"mean": 4, "median": 4, "p95": 4, "max": 4}
    assert figures["distinct"] == {"1": 2 / 8, "2": 2 / 6, "3": 2 / 4}
