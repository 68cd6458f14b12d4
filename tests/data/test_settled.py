"""Worked examples and BOS: decided once, with the data."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from families import save_family
from making import seal_questions
from transformers import PreTrainedTokenizerBase

from narrowband.data import settled
from narrowband.data.prompts import SettledPrompt, encode_answer, encode_prompt, worked_examples
from narrowband.data.settled import DRAWN, MEASURED, draw_shots, read_settled, require_bos, settle, write_settled
from narrowband.data.splits import world_example
from narrowband.data.squad import Answer, Example
from narrowband.lm.base_model import load_tokenizer
from narrowband.lm.bos import BosChoice
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError, Params, Prompt
from narrowband.runtime import paths
from narrowband.runtime.artifacts import write_config

TRAIN = [world_example(0, "train", i) for i in range(100)]


def test_the_shortest_of_some_drawn_questions_come_shortest_first() -> None:
    shots, train = draw_shots(TRAIN, 3, seed=1)
    lengths = [len(one.context) + len(one.question) for one in shots]
    assert lengths == sorted(lengths) and len(shots) == 3
    assert [one for one in TRAIN if one not in shots] == train
    others = sorted(len(one.context) + len(one.question) for one in train)
    assert sum(length < lengths[-1] for length in others) <= len(TRAIN) - DRAWN
    assert draw_shots(TRAIN, 3, seed=1).shots == shots
    assert len({tuple(draw_shots(TRAIN, 3, seed=seed).shots) for seed in range(8)}) > 1


def test_without_shots_all_questions_are_trained_on() -> None:
    assert draw_shots(TRAIN, 0, seed=1) == ([], TRAIN)


def test_each_example_has_an_answer_and_a_passage_of_its_own() -> None:
    own = [Example(str(i), "It rains.", f"What {i}?", (Answer("rains", 3),)) for i in range(9)]
    none = [Example(f"n{i}", f"It is {i}.", "Why?", ()) for i in range(9)]
    shots, train = draw_shots([*none, *own, TRAIN[0]], 2, seed=0)
    assert [one.context for one in shots] == ["It rains.", TRAIN[0].context] and train == none
    with pytest.raises(InputError, match=r"prompt.shots 3 is too many: the training split has 19 questions, 2 of them"):
        draw_shots([*none, *own, TRAIN[0]], 3, seed=0)
    with pytest.raises(InputError, match=r"one must be left to train on; lower it"):
        draw_shots(TRAIN[:2], 2, seed=0)
    with pytest.raises(InputError, match=r"one must be left to train on; lower it"):
        draw_shots(own, 1, seed=0)


def test_examples_are_written_as_answers_are() -> None:
    (text,) = (worked_examples([Example("a", "It rains.", "Does it?", (Answer("rains", 3), Answer("It", 0)))]),)
    assert text == "Context: It rains.\nQuestion: Does it?\nAnswer: rains\n\n"


@pytest.fixture
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_model))


@pytest.mark.parametrize("bos", ["text", "codec", "none"])
def test_what_is_asked_for_is_not_measured(params: Params, bos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FrozenLM, "load", None)
    prompt = params.prompt.model_copy(update={"bos": bos, "shots": 1})
    found, decided = settle(prompt, draw_shots(TRAIN, 1, seed=0), "any")
    assert found.bos == bos and found.examples.startswith("Context: ") and decided == {"bos": bos, "shots": 1}


@pytest.mark.parametrize(("added", "bos"), [(True, "text"), (False, "none")])
def test_auto_is_decided_on_training_questions_with_their_answers(
    lm: FrozenLM, tiny_model: Path, params: Params, added: bool, bos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[list[int]] = []

    def choose(asked: FrozenLM, rows: list[list[int]]) -> BosChoice:
        measured.extend(rows)
        return BosChoice(added, -1.0, -2.0, "why")

    monkeypatch.setattr(settled, "choose_bos", choose)
    prompt = params.prompt.model_copy(update={"bos": "auto", "shots": 2})
    found, decided = settle(prompt, drawn := draw_shots(TRAIN, 2, seed=0), str(tiny_model))
    assert found.bos == bos and found.examples == worked_examples(drawn.shots)
    assert decided["bos_choice"] == {"added": added, "with_bos": -1.0, "without_bos": -2.0, "reason": "why"}
    one, bare = drawn.train[0], prompt.model_copy(update={"bos": "none"})
    text = encode_prompt(lm.tokenizer, one.context, one.question, bare).ids
    assert measured[0] == text + encode_answer(lm.tokenizer, one.golds[0]) and len(measured) == MEASURED


def test_auto_is_measured_on_no_more_tokens_than_the_model_has_positions(params: Params, tmp_path: Path) -> None:
    """The model embeds absolute positions and has no more, so a longer row would end in an IndexError."""
    model = save_family("gpt2", tmp_path, n_positions=96)
    prompt = params.prompt.model_copy(update={"bos": "auto", "max_length": 80})
    long = [replace(one, answers=(Answer(one.context, 0),)) for one in TRAIN]
    _, decided = settle(prompt, draw_shots(long, 0, seed=0), str(model))
    assert decided["bos_choice"]["with_bos"] < 0


def test_auto_is_measured_with_the_model(tiny_model: Path, params: Params) -> None:
    prompt = params.prompt.model_copy(update={"bos": "auto"})
    found, decided = settle(prompt, draw_shots(TRAIN[:3], 0, seed=0), str(tiny_model))
    choice = decided["bos_choice"]
    assert found.bos == ("text" if choice["added"] else "none") and choice["with_bos"] < 0 > choice["without_bos"]


def test_a_chat_delimiter_is_refused_and_never_chosen(tokenizer: PreTrainedTokenizerBase) -> None:
    for bos in ("text", "codec", "auto", "none"):
        require_bos("prompt.bos", bos, tokenizer)
    tokenizer.bos_token = "<|im_start|>"
    for bos in ("auto", "none"):
        require_bos("prompt.bos", bos, tokenizer)
    with pytest.raises(
        InputError, match=r"BOS of this base model is <\|im_start\|>, a chat delimiter; set prompt.bos to"
    ):
        require_bos("prompt.bos", "text", tokenizer)


@pytest.mark.parametrize("bos", ["text", "codec"])
def test_a_bos_that_the_tokenizer_does_not_have_is_refused(tokenizer: PreTrainedTokenizerBase, bos: str) -> None:
    tokenizer.bos_token = None
    with pytest.raises(InputError, match=f"prompt.bos is {bos}, but the tokenizer of this base model has no BOS; set"):
        require_bos("prompt.bos", bos, tokenizer)
    for bos in ("auto", "none"):
        require_bos("prompt.bos", bos, tokenizer)


def test_later_stages_read_what_was_settled(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prompt = params.prompt.model_copy(update={"bos": "auto", "shots": 1})
    wrote = SettledPrompt(**{**prompt.model_dump(), "bos": "none"}, examples="Context: a")
    write_settled(wrote)
    write_config(paths.QA, settled.asked_for(prompt))
    assert read_settled(prompt) == wrote
    changes: tuple[tuple[str, object, str], ...] = (
        ("bos", "text", "prompt.bos auto, not text"),
        ("shots", 2, "shots 1, not 2"),
    )
    for name, value, said in changes:
        with pytest.raises(InputError, match=f"data/qa was made with .*{said}"):
            read_settled(prompt.model_copy(update={name: value}))
    longer: Prompt = prompt.model_copy(update={"max_length": 99})
    assert read_settled(longer).max_length == 99
    (paths.QA / settled.FILE).write_text(json.dumps({"bos": "text", "examples": ""}))
    with pytest.raises(InputError, match=r"prompt.json is not the file that was written"):
        read_settled(prompt)
    seal_questions(paths.QA, params)
    assert read_settled(params.prompt).examples == ""
