import json
from pathlib import Path

import pytest
import torch

from benchmarks import positions, results
from benchmarks.setting import base_lm

TABLES = ("positions", "reader_training", "reader_memory")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "REPETITIONS", 1)
    monkeypatch.setattr(positions, "FEWER", (2, 8))


def test_a_length_is_measured_and_its_cache_is_as_large_as_its_shape_says() -> None:
    text, half, eighth = positions.measure(base_lm(), 33)
    config = base_lm().model.config
    frame = len(positions.Asked(base_lm(), 33, 1).prompt.ids) - 33
    each = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4  # float32 keys and values
    assert [saved.cache_bytes for saved in (text, half, eighth)] == [each * (frame + n) for n in (33, 17, 5)]
    assert all(seconds > 0 for saved in (text, half, eighth) for seconds in saved[2:5])
    assert len(positions.cells(half, text)) == len(positions.HEADER)


def test_text_is_measured_up_to_the_models_last_position_and_longer_contexts_as_latents_alone() -> None:
    lm = base_lm()
    most = positions.most_as_text(lm)
    assert len(positions.Asked(lm, most, 1).prompt.ids) == lm.model.config.max_position_embeddings
    assert [saved.tokens_per_position for saved in positions.measure(lm, most + 1)] == [2, 8]
    (eighth,) = positions.measure(lm, 2 * most + 1)
    shown = positions.cells(eighth, None)
    assert len(shown) == len(positions.HEADER) and [i for i, cell in enumerate(shown) if cell == "-"] == [3, 5, 6, 8]


def test_the_tables_are_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child = {"imports": 2.0e6, "lm_weights": 1.0e6, "encoder_weights": 2.0e6, "peak_bytes": 2.0e6 + 50 * 2**20}
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- {name} -->\n<!-- end of {name} -->\n" for name in TABLES))
    changes = {"LENGTHS": (9,), "LONG": 40, "QUESTIONS": 1, "PAGE": page, "in_child": lambda *arguments: child}
    for name, value in {**changes, "most_as_text": lambda lm: 20}.items():
        monkeypatch.setattr(positions, name, value)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(results, "machine", dict)
    positions.main()
    text, saved = page.read_text(), json.loads((tmp_path / "results.json").read_text())
    lengths = [(one["tokens"], one["tokens_per_position"]) for one in saved["positions"]]
    assert lengths == [(9, 1), (9, 2), (9, 8), (20, 1), (20, 2), (20, 8), (40, 2), (40, 8)]
    assert text.count("\n| ") == sum(len(saved[name]) + 2 for name in TABLES)
    assert "| 8 | 2.0 million | 42 MiB | 50 MiB | 8 MiB |" in text


def test_training_takes_the_memory_of_the_formula_and_little_more_for_one_question() -> None:
    taken = positions.memory(8, questions=1)
    assert taken.encoder_weights == 4 * 256**2 * 8 * 9 + 2 * 2048 + 8192 + 256  # norm and biases
    assert taken.formula < taken.peak < 1.2 * taken.formula


def test_at_one_token_a_position_the_first_token_is_that_of_the_prompt_as_text() -> None:
    asked = positions.Asked(base_lm(), 20, 1)
    assert (
        asked.first_token(asked.encode())
        == base_lm().model.generate(
            torch.tensor([asked.prompt.ids]), max_new_tokens=1, do_sample=False, pad_token_id=0
        )[0, -1]
    )


@pytest.mark.parametrize("k", [2, 8])
def test_a_training_step_takes_the_flops_of_the_formula(k: int) -> None:
    step = positions.training_step(base_lm(), k, questions=2)
    assert step.counted == pytest.approx(step.formula, rel=0.1)
