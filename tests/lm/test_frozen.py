from pathlib import Path

import pytest
import torch

from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import collate
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError

TEXTS = ["Context: a b c", "Context: Belmir Tavosk was born in Orvane.\nQuestion: Where?\nAnswer:", "x"]


def prompts(lm: FrozenLM) -> list[EncodedPrompt]:
    rows = [lm.tokenizer(text).input_ids for text in TEXTS]
    return [EncodedPrompt(ids, [True] * len(ids), truncated=False) for ids in rows]


def reference(lm: FrozenLM, ids: list[int], n: int) -> list[int]:
    """Greedy tokens by the model's own `generate` from token ids, one prompt at a time."""
    tokens = lm.model.generate(
        torch.tensor([ids]),
        max_new_tokens=n,
        do_sample=False,
        eos_token_id=lm.tokenizer.eos_token_id,
        pad_token_id=lm.pad_id,
    )
    return tokens[0, len(ids) :].tolist()


@pytest.mark.parametrize("batch", [1, 3])
def test_generation_from_embeddings_equals_generation_from_ids(lm: FrozenLM, batch: int) -> None:
    rows = prompts(lm)
    expected = [lm.replies(torch.tensor([reference(lm, row.ids, 8)]), "line")[0] for row in rows]
    found = []
    for start in range(0, len(rows), batch):
        padded = collate(rows[start : start + batch], lm.pad_id)
        found += lm.generate(lm.embed(padded.ids), padded.mask, 8)
    assert found == expected
    assert any(reply.text for reply in expected), "the reference must generate something"


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


@pytest.mark.parametrize("name", ["models/nowhere", "/nowhere/at/all"])
def test_a_model_folder_that_does_not_exist(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} does not exist; give a folder"):
        FrozenLM.load(name)


def test_a_model_without_a_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    with pytest.raises(InputError, match="has no tokenizer"):
        FrozenLM.load(str(tmp_path))
