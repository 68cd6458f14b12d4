import re

import pytest
import torch

from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import collate
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.stop import ENDS, Reply, TextEnd, until_end
from narrowband.params import Stop


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        (" Paris\nQuestion: Who", "line", ("Paris", True)),
        ("\n\n  Paris\n", "line", ("Paris", True)),
        (" Paris Question: Who", "line", ("Paris", True)),
        (" Paris. The tower is", "line", ("Paris. The tower is", False)),
        (" Paris. The tower is", "sentence", ("Paris.", True)),
        (" Paris.", "sentence", ("Paris.", False)),
        (" St. Louis, in the U.S. Army\n", "sentence", ("St. Louis, in the U.S. Army", True)),
        ("Really? Yes", "sentence", ("Really?", True)),
        ("\n\n", "line", ("", False)),
        ("", "line", ("", False)),
    ],
)
def test_an_answer_begins_after_white_space_and_ends_by_the_rule(
    text: str, stop: Stop, expected: tuple[str, bool]
) -> None:
    assert until_end(text, stop) == expected


def test_a_row_ends_with_its_answer_and_never_by_its_prompt(lm: FrozenLM) -> None:
    texts = ["\n\nOrvane", "\n\nOrvane\n", "Orvane Question:", "Orvane Quest"]
    rows = [lm.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([[lm.pad_id] * (longest - len(row)) + row for row in rows])
    end = TextEnd.of_answer(lm.tokenizer, "line", 0)
    assert end(ids, None).tolist() == [False, True, True, False]
    assert TextEnd.of_answer(lm.tokenizer, "line", longest)(ids, None).tolist() == [False] * 4
    assert end(torch.cat([ids, torch.full((4, 1), rows[1][-1])], 1), None).tolist() == [True] * 4


def test_a_row_ends_with_a_stop_string_that_began_in_an_earlier_token(lm: FrozenLM) -> None:
    texts = ["Orvane", "Orvane\nQ:", "Orvane\nQ"]
    rows = [lm.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([[lm.pad_id] * (longest - len(row)) + row for row in rows])
    assert TextEnd.at_strings(lm.tokenizer, ["\n\n", "\nQ:"], 0)(ids, None).tolist() == [False, True, False]


def test_generation_is_that_of_unlimited_text_cut_by_the_rule(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that end early in a batch, against each row alone that is never stopped and cut afterwards.

    The random model writes no line breaks, so an answer here ends before a letter that it does write.
    """
    monkeypatch.setitem(ENDS, "line", re.compile("n"))
    rows = [[lm.tokenizer.bos_token_id, *range(i, i + 1 + i % 3)] for i in range(3, 259, 32)]
    prompts = [EncodedPrompt(ids, [True] * len(ids), truncated=False) for ids in rows]
    limit = 40
    expected = []
    for ids in rows:
        tokens = lm.model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=lm.tokenizer.eos_token_id,
            pad_token_id=lm.pad_id,
        )[0, len(ids) :]
        text = lm.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False).lstrip()
        said = text.split("n")[0]
        ended = said != text or lm.tokenizer.eos_token_id in tokens
        expected.append(Reply(said.strip(), not ended))
    batch = collate(prompts, lm.pad_id)
    assert lm.generate(lm.embed(batch.ids), batch.mask, limit) == expected
    assert [lm.generate_from_ids(ids, limit) for ids in rows] == expected
    assert len({reply.cut for reply in expected}) == 2, "some must end, and some must not"
