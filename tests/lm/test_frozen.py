from pathlib import Path

import pytest
import torch
from families import save_family

from narrowband.data.prompts import EncodedPrompt, collate
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError

TEXTS = ["Context: a b c", "Context: Belmir Tavosk was born in Orvane.\nQuestion: Where?\nAnswer:", "x"]


def prompts(lm: FrozenLM) -> list[EncodedPrompt]:
    rows = [lm.tokenizer(text).input_ids for text in TEXTS]
    return [EncodedPrompt(ids, [True] * len(ids), truncated=False) for ids in rows]


def reference(lm: FrozenLM, ids: list[int], n: int) -> list[int]:
    """Greedy tokens by the model's own `generate` from token ids, one prompt at a time."""
    tokens = lm.model.generate(
        torch.tensor([ids]), max_new_tokens=n, do_sample=False, eos_token_id=lm.stop_ids, pad_token_id=lm.pad_id
    )
    return tokens[0, len(ids) :].tolist()


@pytest.mark.parametrize("batch", [1, 3])
def test_generation_from_embeddings_equals_generation_from_ids(lm: FrozenLM, batch: int) -> None:
    rows = prompts(lm)
    expected = [lm.decode_answers(torch.tensor([reference(lm, row.ids, 8)]))[0] for row in rows]
    found = []
    for start in range(0, len(rows), batch):
        padded = collate(rows[start : start + batch], lm.pad_id)
        found += lm.generate(lm.embed(padded.ids), padded.mask, 8)
    assert found == expected
    assert any(expected), "the reference must generate something"


def test_logits_of_left_padded_rows_equal_those_of_single_rows(lm: FrozenLM) -> None:
    rows = prompts(lm)
    padded = collate(rows, lm.pad_id)
    together = lm.logits(lm.embed(padded.ids), padded.mask, 2)
    for row, logits in zip(rows, together, strict=True):
        alone = lm.model(torch.tensor([row.ids])).logits[0, -2:]
        torch.testing.assert_close(logits[-len(alone) :], alone, rtol=1e-4, atol=1e-4)


def test_every_parameter_is_frozen_and_a_chat_template_is_dropped(lm: FrozenLM, tiny_model: Path) -> None:
    assert not any(p.requires_grad for p in lm.model.parameters())
    assert not lm.model.training
    assert lm.tokenizer.chat_template is None


def test_stop_tokens_are_the_end_of_text_and_all_line_breaks(lm: FrozenLM) -> None:
    newline = lm.tokenizer("\n", add_special_tokens=False).input_ids[0]
    assert {newline, lm.tokenizer.eos_token_id} <= set(lm.stop_ids)
    assert lm.tokenizer(" a", add_special_tokens=False).input_ids[-1] not in lm.stop_ids


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_stop_tokens_are_those_that_decode_to_a_line_break(family: str, tmp_path: Path) -> None:
    lm = FrozenLM.load(str(save_family(family, tmp_path)))
    ends = {lm.tokenizer.eos_token_id}
    assert lm.stop_ids == [i for i in range(len(lm.tokenizer)) if "\n" in lm.tokenizer.decode([i]) or i in ends]
    assert len(lm.stop_ids) > 1


@pytest.mark.parametrize("name", ["models/nowhere", "/nowhere/at/all"])
def test_a_model_folder_that_does_not_exist(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is not a model folder"):
        FrozenLM.load(name)


def test_a_model_without_a_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    with pytest.raises(InputError, match="has no tokenizer"):
        FrozenLM.load(str(tmp_path))
