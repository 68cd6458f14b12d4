from pathlib import Path

import pytest

from benchmarks import contexts
from narrowband.data.splits import world_example
from narrowband.data.squad import Answer, Example, write_squad

QUESTIONS = ("Who lives there?", "Where is it, and since when?", "Why?")


def test_contexts_are_read_once_and_answers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [world_example(0, "test", i).context for i in range(2)]
    asked = [
        Example(f"{i} {question}", context, question, (Answer(context[:4], 0),))
        for i, context in enumerate(told)
        for question in QUESTIONS
    ]
    write_squad(tmp_path / "asked.json", "asked", asked)
    monkeypatch.setattr(contexts, "FILE", tmp_path / "asked.json")
    monkeypatch.setattr(contexts, "LAYERS", 1)
    monkeypatch.setattr(contexts, "EVERY", 1)
    monkeypatch.setattr(contexts, "VOCABULARY", 300)
    small = {"hidden_size": 36, "intermediate_size": 48, "vocab_size": 512}
    monkeypatch.setattr(contexts, "SMOLLM2", {**contexts.SMOLLM2, **small})
    row = contexts.shared_contexts()
    assert row.checks["the same answers"] == 1
    assert row.checks["tokens through the model, whole"] > 1.5 * row.checks["tokens through the model, shared"]
