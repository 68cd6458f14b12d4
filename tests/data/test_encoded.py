import json
from pathlib import Path

import pytest

from narrowband.data import encoded
from narrowband.data.encoded import read_prompts
from narrowband.data.prompts import encode_prompt
from narrowband.data.splits import world_example
from narrowband.data.squad import write_squad
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError, Params


@pytest.fixture
def qa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("qa.json")
    write_squad(path, "any", [world_example(0, "train", i) for i in range(7)])
    return path


def test_prompts_are_those_of_the_file_in_order(lm: FrozenLM, params: Params, qa: Path) -> None:
    examples = [world_example(0, "train", i) for i in range(7)]
    expected = [encode_prompt(lm.tokenizer, e.context, e.question, params.prompt) for e in examples]
    prompts = read_prompts(lm.tokenizer, qa, params.prompt)
    assert len(prompts) == 7
    assert list(prompts) == prompts[:] == [prompts[i] for i in range(7)] == expected
    assert prompts[2:4] == expected[2:4]


def test_a_file_is_encoded_once_unless_something_changes(
    lm: FrozenLM, params: Params, qa: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(encoded, "encode_prompt", lambda *given: calls.append(given) or encode_prompt(*given))

    def encoded_now(settings: Params) -> int:
        before = len(calls)
        read_prompts(lm.tokenizer, qa, settings.prompt)
        return len(calls) - before

    assert [encoded_now(params), encoded_now(params)] == [7, 0]
    other = params.model_copy(update={"prompt": params.prompt.model_copy(update={"bos": "none"})})
    assert [encoded_now(other), encoded_now(other), encoded_now(params)] == [7, 0, 0]
    write_squad(qa, "any", [world_example(0, "train", i) for i in range(8)])
    assert encoded_now(params) == 8


def test_bad_input_is_refused_as_it_would_be_without_a_cache(lm: FrozenLM, params: Params, qa: Path) -> None:
    short = params.prompt.model_copy(update={"max_length": 3})
    with pytest.raises(InputError, match=r"prompt\.max_length 3 leaves no room for a question"):
        read_prompts(lm.tokenizer, qa, short)
    qa.write_text(json.dumps({"data": [{"paragraphs": [{}]}]}))
    with pytest.raises(InputError, match="not of the SQuAD schema"):
        read_prompts(lm.tokenizer, qa, params.prompt)
