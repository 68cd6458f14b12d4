"""Runs on a backend whose replies the test writes; the three faults of the original SFT generator, and resumption."""

import json
from collections import Counter
from pathlib import Path

import pytest
from families import FAMILIES, make_tokenizer
from sft_fakes import FakeBackend, distinct_reply, make_run, small, written

from narrowband.data.prompts import qa_prompt
from narrowband.data.splits import world_example
from narrowband.data.words import words
from narrowband.params import InputError, Params
from narrowband.sft.backend import Continuation
from narrowband.sft.filters import ROUGE_L, Contamination, rouge_l
from narrowband.sft.instructions import Instruction, Supply
from narrowband.sft.journal import Journal
from narrowband.sft.pool import FORMS, CompletionPrompts, SftPrompt, read_pool
from narrowband.world.completions import HEADER

ROOT = Path(__file__).parent.parent.parent


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_writes_as_many_distinct_records_as_asked_of_all_types_and_sources(
    backend: FakeBackend, params: Params, tmp_path: Path
) -> None:
    run = make_run(backend, small(params, sft_records=40), tmp_path)
    kept = records(written(run, tmp_path)[0])
    assert len({record["id"] for record in kept}) == len({record["formatted_text"] for record in kept}) == 40
    assert set(Counter(record["instruction_type"] for record in kept).values()) == {10}
    assert {record["instruction_source"] for record in kept} == {"pool", "model", "reading"}
    texts = [words(f"{record['instruction']} {record['response']}") for record in kept]
    assert all(rouge_l(a, b) < ROUGE_L for i, a in enumerate(texts) for b in texts[:i])


@pytest.mark.parametrize("style", ["few_shot", "completion"])
def test_stored_prompts_are_what_was_fed_and_all_texts_can_be_rebuilt(
    style: str, backend: FakeBackend, params: Params, tmp_path: Path
) -> None:
    pool = {example.id: example for example in read_pool(ROOT / params.data.few_shot_pool)}
    train, rejected = written(make_run(backend, small(params, prompt_style=style), tmp_path), tmp_path)
    lists = [text for text in backend.fed if text.endswith("\n4.")]
    stored = records(train) + records(rejected)
    assert Counter(record["prompt"] for record in stored) == Counter(backend.fed) - Counter(lists)
    for record in stored:
        examples = [pool[id] for id in record["few_shot_ids"]]
        instruction, response, many = record["instruction"], record["response"], "\n" in record["instruction"]
        form = instruction if many else FORMS[record["instruction_type"]].format(instruction)
        blocks = [HEADER, *(f"{e.instruction}\n{e.completion}" for e in examples), instruction]
        assert record["prompt"] == (form if style == "completion" else "\n\n".join(blocks) + ("" if many else "\n"))
        assert record["formatted_text"] == form + ("" if form[-1] == "\n" else " ") + response
        assert len(examples) in ((3, 4) if style == "few_shot" else (0,))
        assert record["completion"] == distinct_reply(record["prompt"], record["seed"]).text


def test_every_instruction_is_put_by_the_one_prompter(
    backend: FakeBackend, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put: list[str] = []

    def build(self: CompletionPrompts, kind: str, instruction: str, seed: int) -> SftPrompt:
        put.append(f"<{instruction}>")
        return SftPrompt(put[-1], [])

    monkeypatch.setattr(CompletionPrompts, "build", build)
    written(make_run(backend, small(params), tmp_path), tmp_path)
    assert Counter(text for text in backend.fed if not text.endswith("\n4.")) == Counter(put)


def test_few_shot_prompts_are_the_default(params: Params) -> None:
    assert params.data.prompt_style == "few_shot"


def test_what_is_no_record_is_rejected_with_its_reason(backend: FakeBackend, params: Params, tmp_path: Path) -> None:
    copied = world_example(0, "test", 3).context
    faulty = [
        Continuation("cut off", "length"),
        Continuation("\n\n", "stop"),
        Continuation("User: Hello\n\n", "stop"),
        Continuation("so so so so so so so so\n\n", "stop"),
        Continuation(copied, "eos"),
        Continuation("The same answer that is given to all of them, in just the very same words.\n\n", "stop"),
    ]

    def reply(prompt: str, seed: int) -> Continuation:
        return distinct_reply(prompt, seed) if prompt.endswith("\n4.") or seed % 2 else faulty[seed // 2 % 6]

    backend.reply = reply
    train, rejected = written(make_run(backend, small(params, sft_records=40), tmp_path), tmp_path)
    assert len(records(train)) == 40
    reasons = {"length_limit", "empty", "delimiter", "repetition", "test_overlap", "near_duplicate"}
    by_reason = {record["reason"]: record for record in records(rejected)}
    assert reasons <= set(by_reason)
    assert by_reason["test_overlap"]["response"] == copied
    assert by_reason["length_limit"]["finish_reason"] == "length"
    test = Contamination(world_example(0, "test", i) for i in range(20))
    assert not any(test.overlaps(record["formatted_text"]) for record in records(train))


def test_what_the_tokenizer_changes_is_left_out_unless_the_user_can_fix_it(params: Params, tmp_path: Path) -> None:
    def reply(prompt: str, seed: int) -> Continuation:
        said = distinct_reply(prompt, seed).text
        return Continuation(
            said.replace("?", " at the cafe\u0301?") if seed % 2 else said.replace("a", "a\u0301"), "stop"
        )

    backend = FakeBackend(make_tokenizer(FAMILIES["qwen2"]), reply)
    run = make_run(backend, small(params), tmp_path / "run")
    train, rejected = written(run, tmp_path / "run")
    assert len(records(train)) == 12 and run.figures()["counts"]["instructions"]["lossy"] == run.lossy > 0
    lossy = [record["completion"] for record in records(rejected) if record["reason"] == "lossy"]
    assert lossy and all("a\u0301" in text for text in lossy) and run.counts.rejected["lossy"] == len(lossy)
    run = make_run(backend, small(params), tmp_path / "pool")
    run.supply = Supply()
    run.supply.add([Instruction("Where is the cafe\u0301?", "any", "pool")])
    with pytest.raises(InputError, match="change it in data"):
        written(run, tmp_path / "pool")


def test_the_critic_rejects_by_margin_and_margins_are_stored(
    backend: FakeBackend, params: Params, tmp_path: Path
) -> None:
    backend.margin = lambda prompt: -2.0 if "Write a short task." in prompt else 0.1 * (len(prompt) % 10)
    critic = params.data.critic.model_copy(update={"instruction": -3.0, "pair": 0.45})
    train, rejected = written(make_run(backend, small(params, critic=critic), tmp_path), tmp_path)
    refused = [record for record in records(rejected) if record["reason"].startswith("critic")]
    assert {record["reason"] for record in refused} == {"critic_pair"}
    assert all(record["critic"]["pair"] < 0.45 for record in refused)
    assert all(record["critic"]["pair"] >= 0.45 and record["critic"]["instruction"] == -2 for record in records(train))


def test_an_instruction_that_the_critic_refuses_is_no_record(
    backend: FakeBackend, params: Params, tmp_path: Path
) -> None:
    backend.margin = lambda prompt: (
        -1.0 if "Write a short task." in prompt and "fact" in prompt.split("\n\n")[-1] else 0.0
    )
    critic = params.data.critic.model_copy(update={"instruction": -0.5, "pair": -0.5})
    train, rejected = written(make_run(backend, small(params, critic=critic, sft_records=30), tmp_path), tmp_path)
    refused = [record["instruction"] for record in records(rejected) if record["reason"] == "critic_instruction"]
    assert refused and all("fact" in text for text in refused)
    assert not any("fact" in record["instruction"] for record in records(train))


def test_a_missed_gate_stops_the_run_after_the_pilot(backend: FakeBackend, params: Params, tmp_path: Path) -> None:
    backend.reply = lambda prompt, seed: (
        Continuation("and on and", "length") if seed % 4 else distinct_reply(prompt, seed)
    )
    gates = small(params).data.gates.model_copy(update={"pilot": 16, "length_limit": 0.5})
    run = make_run(backend, small(params, gates=gates, sft_records=500), tmp_path)
    with pytest.raises(
        InputError, match=r"the pilot of 16 SFT records has length_limit 0\.\d+, but data.gates"
    ) as refusal:
        written(run, tmp_path)
    assert "\n" not in str(refusal.value) and run.counts.candidates == 16


def test_prompts_that_are_too_long_are_left_out(backend: FakeBackend, params: Params, tmp_path: Path) -> None:
    short = small(params)
    short = short.model_copy(update={"prompt": short.prompt.model_copy(update={"max_length": 130})})
    run = make_run(backend, short, tmp_path)
    kept = records(written(run, tmp_path)[0])
    assert len(kept) == 12 and run.figures()["counts"]["instructions"]["too_long"] > 0
    assert all(len(backend.tokenizer(record["prompt"], add_special_tokens=False).input_ids) <= 130 for record in kept)


@pytest.mark.parametrize(
    "reply", [lambda p, s: Continuation("", "eos"), lambda p, s: Continuation("always so\n\n", "stop")]
)
def test_running_out_is_said_with_how_many_there_are(
    reply: object, backend: FakeBackend, params: Params, tmp_path: Path
) -> None:
    backend.reply = reply  # type: ignore[assignment]
    run = make_run(backend, small(params, sft_records=5000), tmp_path)
    with pytest.raises(InputError, match=r"data.sft_records 5000 is more than the \d+ clean, distinct records"):
        written(run, tmp_path)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("call", [0, 1, 4, 8])
def test_a_run_that_breaks_off_and_is_started_again_writes_the_same_bytes(
    call: int, backend: FakeBackend, params: Params, tmp_path: Path
) -> None:
    whole = written(make_run(backend, small(params, sft_records=30), tmp_path / "a"), tmp_path / "a")
    batches = len(backend.batches)
    complete, calls = backend.complete, iter(range(1000))

    def breaking(*arguments: object) -> list[Continuation]:
        if next(calls) == call:
            raise KilledError
        return complete(*arguments)  # type: ignore[arg-type]

    backend.complete = breaking  # type: ignore[method-assign,assignment]
    with pytest.raises(KilledError):
        written(make_run(backend, small(params, sft_records=30), tmp_path / "b"), tmp_path / "b")
    journal = tmp_path / "b" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b'[["half a li')  # as a kill in the middle of a write leaves it
    resumed = written(make_run(backend, small(params, sft_records=30), tmp_path / "b"), tmp_path / "b")
    assert [path.read_bytes() for path in resumed] == [path.read_bytes() for path in whole]
    assert len(backend.batches) == 2 * batches  # nothing was asked twice


def test_a_journal_of_another_run_is_not_used(tmp_path: Path) -> None:
    first = Journal(tmp_path / "journal.jsonl", "one")
    assert first.recall(lambda: [1.5, "é\n"]) == [1.5, "é\n"]
    again = Journal(tmp_path / "journal.jsonl", "one")
    assert again.recorded == 1 and again.recall(lambda: pytest.fail()) == [1.5, "é\n"]
    other = Journal(tmp_path / "journal.jsonl", "two")
    assert other.recorded == 0 and other.recall(lambda: 2) == 2


def test_reading_instructions_are_put_as_in_the_qa_evaluation(
    backend: FakeBackend, params: Params, tmp_path: Path
) -> None:
    kept = records(written(make_run(backend, small(params), tmp_path), tmp_path)[0])
    asked = {qa_prompt(e.context, e.question) for e in (world_example(0, "train", i) for i in range(40))}
    readings = [record for record in kept if record["instruction_source"] == "reading"]
    assert readings and all(record["instruction"] in asked for record in readings)
    assert all(record["prompt"].endswith("\nAnswer:") for record in readings)


def test_a_pilot_of_prompts_that_are_too_long_is_checked_all_the_same(
    backend: FakeBackend, params: Params, tmp_path: Path
) -> None:
    settings = small(
        params, sft_records=1, gates=small(params).data.gates.model_copy(update={"pilot": 12, "runaway": 0})
    )
    settings = settings.model_copy(update={"prompt": settings.prompt.model_copy(update={"max_length": 130})})
    backend.reply = lambda prompt, seed: Continuation(distinct_reply(prompt, seed).text.strip() + "\nQ: What", "stop")
    run = make_run(backend, settings, tmp_path)
    with pytest.raises(InputError, match=r"has runaway 1\.00"):
        written(run, tmp_path)
    assert run.too_long and run.counts.candidates < 12
