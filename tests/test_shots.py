"""Stages with worked examples before each question, shared as keys and values, against whole prompts."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_check import check
from tiny_project import BRIEF, ROOT, STAGES, change, make_project
from typer.testing import CliRunner

import narrowband.lm.prefill
from narrowband.cli import app
from narrowband.data.prompts import encode_prompt, qa_prompt
from narrowband.data.settled import read_settled
from narrowband.data.squad import read_squad
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError, Params
from narrowband.runtime.parameters import load_params


def run(*stages: str) -> None:
    for name in stages:
        runpy.run_path(str(ROOT / "stages" / f"{name}.py"))["main"]()


def made(folder: Path, model: Path, **prompt: object) -> Params:
    folder.mkdir()
    make_project(folder, model)
    sizes = {"train": 16, "validation": 2, "test": 5, "quick": 2, "sft_records": 0, "phase2_sft_share": 0.0}
    changes = {
        **BRIEF,
        "phase1": {"steps": 4, "evaluate_every": 4},
        "phase2": {"steps": 4, "warmup": 1, "evaluate_every": 4},
        "data": sizes,
        "prompt": {"shots": 2, "max_length": 1000, **prompt},
        "generation": {"max_new_tokens": 8},
    }
    change(folder, changes)
    return Params.model_validate(yaml.safe_load((folder / "params.yaml").read_text()))


def read(path: str) -> Any:
    return json.loads(Path(path).read_text())


def test_sharing_examples_changes_no_result(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = []
    for name in ("shared", "whole"):
        made(tmp_path / name, tiny_model)
        monkeypatch.chdir(tmp_path / name)
        if name == "whole":
            monkeypatch.setattr(narrowband.lm.prefill, "shareable", lambda *arguments: None)
        run(*STAGES)
        assert "can't go on from what prompts share" not in capsys.readouterr().out
        results.append([read(f"artifacts/evaluate/predictions_{system}.json") for system in ("uncompressed", "phase1")])
        results[-1].append(
            {name: pytest.approx(value, rel=0.02, abs=0.5) for name, value in read("metrics/phase2.json").items()}
        )
    assert results[0][:2] == results[1][:2]
    assert read("metrics/phase2.json") == results[0][2]
    assert any(results[0][0].values())


def test_the_other_commands_know_the_examples(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = made(tmp_path / "project", tiny_model, anchor="codec")
    monkeypatch.chdir(tmp_path / "project")
    run(*STAGES)
    settled, lm = read_settled(params.prompt), FrozenLM.load(str(tiny_model))
    test = read_squad(Path("data/qa/test.json"))
    prompts = [encode_prompt(lm.tokenizer, one.context, one.question, settled) for one in test]
    assert read("artifacts/evaluate/predictions_uncompressed.json") == {
        one.id: lm.generate_from_ids(prompt.ids, 8).text for one, prompt in zip(test, prompts, strict=True)
    }
    rates = {row["setting"]: row["bits_per_token"] for row in read("results/baselines.json")["rows"]}
    assert rates["9 bits"] == 9  # of tokens that pass through the codec, which examples don't
    context = "Mara Velt lives in Tornby."
    asked = CliRunner().invoke(app, ["ask", "--context", context, "--question", "Who lives in Tornby?"])
    assert asked.exit_code == 0 and "Phase 2" in asked.output
    change(Path(), {"prompt": {"max_length": 999}})
    with pytest.raises(InputError, match=r"artifacts/evaluate was made with prompt \{.*, not \{") as refusal:
        run("diagnose")
    assert "Context:" not in str(refusal.value)


def test_examples_as_text_stay_out_of_the_codec_and_of_the_questions(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = made(tmp_path / "project", tiny_model)
    monkeypatch.chdir(tmp_path / "project")
    run("generate_data", "fit_pca")
    settled, train = read_settled(params.prompt), read_squad(Path("data/qa/train.json"))
    assert len(train) == 14 and not any(qa_prompt(one.context, one.question) in settled.examples for one in train)
    assert settled.examples.count("Question:") == 2 and settled.bos in ("text", "none")
    told = read("results/data.json")["prompt"]
    assert (
        told["bos"] == settled.bos and told["shots"] == 2 and {"with_bos", "without_bos"} <= told["bos_choice"].keys()
    )
    assert read("artifacts/pca/config.json")["prompt"]["examples"] == settled.examples
    lm = FrozenLM.load(str(tiny_model))
    prompt = encode_prompt(lm.tokenizer, train[0].context, train[0].question, settled)
    assert lm.tokenizer.decode([i for i, on in zip(prompt.ids, prompt.coded, strict=True) if on]) == (
        qa_prompt(train[0].context, train[0].question).removesuffix("\nAnswer:")
    )
    change(Path(), {"prompt": {"shots": 3}})
    with pytest.raises(InputError, match=r"data/qa was made with prompt.shots 2, not 3; run dvc repro"):
        run("fit_pca")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"shots": 16},
            "prompt.shots 16 leaves no question to train on, as data.train is 16; lower prompt.shots to 15 or less",
        ),
        ({"bos": "codec"}, "prompt.bos codec puts BOS through the codec"),
        (
            {"shots": 9, "max_length": 120},
            "question .*: prompt.max_length 120 leaves no room for 9 examples and a question",
        ),
        ({"shots": -1}, "prompt.shots is -1"),
    ],
)
def test_check_refuses_examples_that_can_not_be(
    tmp_path: Path, stopping_model: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], said: str
) -> None:
    (tmp_path / "project").mkdir()
    folder = tmp_path / "project"
    make_project(folder, stopping_model)
    change(folder, {"prompt": {"shots": 2, **changes}, "data": {"train": 16}})
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=said) as refusal:
        load_params()
        check()
    assert "\n" not in str(refusal.value)
