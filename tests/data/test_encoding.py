import json
import logging
from pathlib import Path

import pytest
import torch

from narrowband.codec.token_windows import check_windows
from narrowband.data.prompts import (
    check_questions,
    encode_answer,
    encode_prompt,
    encode_prompts,
    say_truncated,
    truncated_share,
)
from narrowband.data.squad import Example
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.stop import Reply
from narrowband.params import InputError, Params
from narrowband.runtime.artifacts import MANIFEST, sha256, write_sealed
from narrowband.sft.pool import encode_exactly
from narrowband.training.self_distillation import read_sft

CONTROL = "<|bos|> and <|eos|> and <|pad|>"


def example(id: str, question: str, context: str = "A fox is red.") -> Example:
    return Example(id, context, question, ())


def test_text_that_looks_like_a_control_token_stays_text(lm: FrozenLM, params: Params) -> None:
    prompt = params.prompt.model_copy(update={"bos": "none"})
    ids = encode_prompt(lm.tokenizer, CONTROL, f"Why {CONTROL}?", prompt).ids
    assert not set(ids) & set(lm.tokenizer.all_special_ids)
    assert lm.tokenizer.decode(ids) == f"Context: {CONTROL}\nQuestion: Why {CONTROL}?\nAnswer:"
    assert lm.tokenizer.decode(encode_answer(lm.tokenizer, CONTROL)) == f" {CONTROL}\n"
    assert not set(encode_answer(lm.tokenizer, CONTROL)) & set(lm.tokenizer.all_special_ids)


def test_an_empty_answer_is_one_that_ends(lm: FrozenLM) -> None:
    (end,) = encode_answer(lm.tokenizer, "")
    assert lm.replies(torch.tensor([[end, lm.pad_id]]), "line") == [Reply("", cut=False)]
    (row,) = encode_exactly(lm.tokenizer, [CONTROL])
    assert not set(row) & set(lm.tokenizer.all_special_ids) and lm.tokenizer.decode(row) == CONTROL


def test_control_tokens_in_sft_records_stay_text(lm: FrozenLM, tmp_path: Path) -> None:
    record = {"prompt": f"Say {CONTROL}", "completion": f" {CONTROL} so", "response": CONTROL, "bos": False}
    (tmp_path / "train.jsonl").write_text(json.dumps(record) + "\n")
    write_sealed(tmp_path / MANIFEST, {"sha256": {"train.jsonl": sha256(tmp_path / "train.jsonl")}})
    _, ((prompt, answer),) = read_sft(tmp_path, lm.tokenizer)
    assert lm.tokenizer.decode(prompt.ids + answer) == f"Say {CONTROL} {CONTROL}\n"
    assert not {*prompt.ids, *answer} & set(lm.tokenizer.all_special_ids)


def test_a_question_too_long_for_a_prompt_is_refused_with_its_id(lm: FrozenLM, params: Params) -> None:
    prompt = params.prompt.model_copy(update={"max_length": 64})
    fits, too_long = example("fits", "Why is it so?"), example("q7", "why " * 80)
    for refuse in (check_questions, encode_prompts):
        refuse(lm.tokenizer, [fits], prompt)
        with pytest.raises(InputError, match=r"question q7: prompt.max_length 64 leaves no room"):
            refuse(lm.tokenizer, [fits, too_long], prompt)


@pytest.mark.parametrize("length", range(20, 100, 8))
def test_a_question_passes_the_check_exactly_if_it_can_be_encoded(lm: FrozenLM, params: Params, length: int) -> None:
    prompt = params.prompt.model_copy(update={"max_length": 48})
    questions = [example("q", ("xq7 " * length)[:length])]

    def refused(refuse: object) -> bool:
        try:
            refuse(lm.tokenizer, questions, prompt)  # type: ignore[operator]
        except InputError:
            return True
        return False

    assert refused(check_questions) == refused(encode_prompts)


def test_what_is_cut_is_said_once_and_by_no_library(
    lm: FrozenLM, params: Params, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = [example("1", "Why?", "word " * 3000), example("2", "Why?")]
    with caplog.at_level(logging.WARNING):
        prompts = encode_prompts(lm.tokenizer, questions, params.prompt)
        assert truncated_share(prompts) == 0.5
        say_truncated(truncated_share(prompts), params.prompt)
        say_truncated(0.0, params.prompt)
    limit = params.prompt.max_length
    said = capsys.readouterr()
    assert said.out == f"50.00% of prompts lost the end of their context: prompt.max_length is {limit} tokens\n"
    assert "indexing errors" not in said.err + caplog.text


def test_too_few_windows_are_seen_without_the_model_and_enough_take_no_more(lm: FrozenLM, params: Params) -> None:
    prompts = encode_prompts(lm.tokenizer, [example(str(i), "Why?") for i in range(4)], params.prompt)
    each = -(-sum(prompts[0].coded) // 4)
    check_windows(prompts, 4, 4 * each - 1)
    with pytest.raises(InputError, match=f"compress_dim {4 * each} needs more than .* but there are {4 * each};"):
        check_windows(prompts, 4, 4 * each)
    rest = iter(prompts)
    check_windows(rest, 4, each)
    assert len(list(rest)) == 2
