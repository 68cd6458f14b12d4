"""Whatever stands in `params.yaml` or in a QA file, it is read or refused with a sentence. `make fuzz` tries harder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from families import FAMILIES, TEXTS, make_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from narrowband.data.prompts import ANCHOR, encode_answer, encode_prompt
from narrowband.data.squad import read_squad
from narrowband.lm.stop import decode_after
from narrowband.params import InputError
from narrowband.reader.split_prompt import split_prompt
from narrowband.runtime.parameters import load_params
from narrowband.sft.backend import Continuation
from narrowband.sft.instructions import Instruction, read_list, well_formed
from narrowband.sft.nonsense import Nonsense
from narrowband.sft.pool import are_exact, encode_exactly

ROOT = Path(__file__).parent.parent
PARAMS = (ROOT / "params.yaml").read_text()
QUESTION = {"id": "1", "question": "q", "answers": [{"text": "fox", "answer_start": 4}]}
QA = {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "red fox", "qas": [QUESTION]}]}]}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2**63, 10**400, 0.5])
    | st.floats()
    | st.text()
    | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
fuzz = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def with_another_value(draw: st.DrawFn, tree: Any) -> Any:
    """`tree` with one of its values replaced, removed or put under another name."""
    if not isinstance(tree, dict | list) or not tree or draw(st.integers(0, 4)) == 0:
        return draw(VALUES)
    key = draw(st.sampled_from(sorted(tree) if isinstance(tree, dict) else range(len(tree))))
    if isinstance(tree, list):
        return [*tree[:key], draw(with_another_value(tree[key])), *tree[key + 1 :]]
    others = {name: value for name, value in tree.items() if name != key}
    match draw(st.integers(0, 5)):
        case 0:
            return others
        case 1:
            return {**others, draw(st.text(max_size=9) | st.integers()): tree[key]}
    return {**others, key: draw(with_another_value(tree[key]))}


@st.composite
def with_other_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` with a stretch of it replaced, as an editor's slip or a bad disk would."""
    start = draw(st.integers(0, len(content)))
    stop = draw(st.integers(start, min(len(content), start + 20)))
    other = draw(st.binary(max_size=12) | st.text("[]{}&*!|>%@`'\"#:-?, \n\t0~<=", max_size=12).map(str.encode))
    return content[:start] + other + content[stop:]


def read_or_refused(read: Callable[[Path], object], path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        read(path)
    except InputError as refusal:
        assert "\n" not in str(refusal) and str(path) in str(refusal) and len(str(refusal)) < 2000


@fuzz
@given(content=with_another_value(yaml.safe_load(PARAMS)))
def test_params_of_other_values(tmp_path: Path, content: Any) -> None:
    read_or_refused(
        load_params, tmp_path / "params.yaml", yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "replace")
    )


@fuzz
@given(content=with_other_bytes(PARAMS.encode()))
def test_params_of_other_bytes(tmp_path: Path, content: bytes) -> None:
    read_or_refused(load_params, tmp_path / "params.yaml", content)


@fuzz
@given(content=with_another_value(QA))
def test_questions_of_other_values(tmp_path: Path, content: Any) -> None:
    read_or_refused(read_squad, tmp_path / "qa.json", json.dumps(content, default=str).encode())


@fuzz
@given(content=with_other_bytes(json.dumps(QA).encode()))
def test_questions_of_other_bytes(tmp_path: Path, content: bytes) -> None:
    read_or_refused(read_squad, tmp_path / "qa.json", content)


PIECES = st.text() | st.sampled_from(TEXTS)


@pytest.fixture(scope="module", params=["llama", "mistral", "qwen2"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return make_tokenizer(FAMILIES[request.param])


@fuzz
@given(context=PIECES, question=PIECES, room=st.integers(16, 400))
def test_prompts_of_any_text(tokenizer: PreTrainedTokenizerBase, context: str, question: str, room: int) -> None:
    prompt = load_params(ROOT / "params.yaml").prompt.model_copy(update={"max_length": room})
    try:
        whole, parts = (make(tokenizer, context, question, prompt) for make in (encode_prompt, split_prompt))
    except InputError as refusal:
        assert "\n" not in str(refusal)
    else:
        assert whole.ids == parts.ids and len(whole.ids) == len(whole.coded) <= room
    if all(are_exact(tokenizer, [f"{ANCHOR} {question}\n"])):
        (cue,) = encode_exactly(tokenizer, [ANCHOR])
        said = decode_after(tokenizer, cue, encode_answer(tokenizer, question))
        assert said == (f" {question}\n" if question else tokenizer.eos_token)


@fuzz
@given(text=PIECES, instruction=PIECES)
def test_completions_of_any_text(text: str, instruction: str) -> None:
    for said in read_list(Continuation(f" {text}\n5.{instruction}", "eos")):
        assert not well_formed(said) or Instruction(said, "any", "model").kind
    Nonsense([]).fault(Continuation(text, "eos"), instruction, [])
