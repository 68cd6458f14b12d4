from pathlib import Path

import pytest
from making import answerer_of

from narrowband.data.splits import world_example
from narrowband.evaluation.uncompressed import read_uncompressed, write_uncompressed
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError, Params

EXAMPLES = [world_example(0, "test", i) for i in range(4)]
MADE_WITH = {"stop": "line", "questions": "a"}


def test_kept_answers_are_those_that_were_given(
    lm: FrozenLM, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = answerer_of(lm, params).answer(None, EXAMPLES)
    write_uncompressed("test", found, MADE_WITH)
    assert read_uncompressed("test", EXAMPLES, MADE_WITH) == found


def test_answers_to_other_questions_or_with_other_settings_or_damaged_are_refused(
    lm: FrozenLM, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_uncompressed("test", answerer_of(lm, params).answer(None, EXAMPLES), MADE_WITH)
    with pytest.raises(InputError, match="artifacts/uncompressed/test was made with stop line, not sentence"):
        read_uncompressed("test", EXAMPLES, {**MADE_WITH, "stop": "sentence"})
    with pytest.raises(InputError, match="artifacts/uncompressed/test was made with questions a, not b"):
        read_uncompressed("test", EXAMPLES, {**MADE_WITH, "questions": "b"})
    (tmp_path / "artifacts" / "uncompressed" / "test" / "answers.json").write_text("{}")
    with pytest.raises(InputError, match=r"answers\.json"):
        read_uncompressed("test", EXAMPLES, MADE_WITH)
