"""Worked examples whose keys and values are shared say what the same model says to the whole text, in every family."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import FAMILIES, save_family, save_recurrent

from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import (
    Batch,
    SettledPrompt,
    check_questions,
    collate,
    encode_answer,
    encode_prompt,
    qa_prompt,
    worked_examples,
)
from narrowband.data.squad import Answer, Example
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.prefix import Prefix, shareable
from narrowband.lm.rows import KnownTokens
from narrowband.lm.split import blocks
from narrowband.params import InputError, Params

NEW = 8
SHOTS = worked_examples(
    [
        Example("a", "Ode Rusk lives in Kell.", "Who lives in Kell?", (Answer("Ode Rusk", 0),)),
        Example("b", "Mara Velt is 40.\nOde is 30.", "How old is Mara Velt?", (Answer("40", 13),)),
    ]
)
PAIRS = [
    ("Tornby is a town in the north. Kell is in the west.", "Where is Tornby?"),
    ("It rains.", "Does it rain?"),
    ("A b.", "C?"),
]


@pytest.fixture(
    scope="module", params=sorted(FAMILIES.keys() - {"mamba"})
)  # whose cache is a state, not keys and values
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FrozenLM:
    return FrozenLM.load(str(save_family(request.param, tmp_path_factory.mktemp(request.param))))


def prompt_of(params: Params, **changes: object) -> SettledPrompt:
    settings = {"bos": "text", "max_length": 640, "shots": 2, "examples": SHOTS, **changes}
    return SettledPrompt(**{**params.prompt.model_dump(), **settings})


def encoded(lm: FrozenLM, params: Params, **changes: object) -> list[EncodedPrompt]:
    """Three prompts of unlike length, one of them short, after two worked examples."""
    return [encode_prompt(lm.tokenizer, *pair, prompt_of(params, **changes)) for pair in PAIRS]


def test_prompts_are_the_tokens_of_the_whole_text(family: FrozenLM, params: Params) -> None:
    for bos in ("text", "none"):
        first = [family.tokenizer.bos_token_id] if bos == "text" and family.tokenizer.bos_token_id is not None else []
        for pair, prompt in zip(PAIRS, encoded(family, params, bos=bos), strict=True):
            assert prompt.ids == first + family.tokenizer(SHOTS + qa_prompt(*pair), add_special_tokens=False).input_ids
            assert prompt.shared > len(first) and not any(prompt.coded[: prompt.shared])


@pytest.mark.parametrize("bos", ["text", "none"])
def test_answers_are_those_to_the_whole_prompt_alone(family: FrozenLM, params: Params, bos: str) -> None:
    prompts = encoded(family, params, bos=bos)
    batch = collate(prompts, family.pad_id)
    assert batch.shared == tuple(prompts[0].ids[: prompts[0].shared]) and not batch.mask.all()
    found = family.generate(family.embed(batch.ids), batch.mask, NEW, known=KnownTokens(batch.shared))
    assert found == [family.generate_from_ids(prompt.ids, NEW) for prompt in prompts]
    assert any(reply.text for reply in found)
    assert family.prefix[0] == batch.shared and family.prefix[1]  # it was shared, and not read again


def lesson_rows(lm: FrozenLM, params: Params) -> tuple[Batch, torch.Tensor]:
    answers = [encode_answer(lm.tokenizer, text)[:-1] for text in ("Tornby", "the red house of Kell", "b")]
    batch = collate(encoded(lm, params), lm.pad_id, answers)
    longest = max(map(len, answers)) + 1
    return batch, torch.tensor([[i >= longest - len(answer) - 1 for i in range(longest)] for answer in answers])


def test_logits_and_gradients_are_those_of_the_whole_prompt(
    family: FrozenLM, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, wanted = lesson_rows(family, params)
    original = family.embed(batch.ids)

    def asked(lm: FrozenLM, shared: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = original[batch.coded].clone().requires_grad_()
        logits = lm.logits_at(original.index_put((batch.coded,), tokens), batch.mask, wanted, shared)
        return logits, torch.autograd.grad(logits.log_softmax(-1)[:, 5].sum(), tokens)[0]

    logits, gradient = asked(family, ())
    assert gradient.abs().sum(-1)[-8:].all()
    for again in (False, True):
        if again:  # blocks that are computed twice
            for block in blocks(family.model):
                monkeypatch.setattr(block, "forward", block.forward)
            family.checkpoint_gradients()
        lm = replace(family)
        own_logits, own_gradient = asked(lm, batch.shared)
        torch.testing.assert_close(own_logits, logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(own_gradient, gradient, rtol=1e-3, atol=1e-4)
        assert lm.prefix[0] == batch.shared and lm.prefix[1]


def test_a_model_that_keeps_more_than_keys_and_values_reads_whole_prompts(
    params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = FrozenLM.load(str(save_recurrent(tmp_path)))
    assert not plain.batchable
    lm = replace(plain, batchable=True)
    for prompt in encoded(lm, params):
        batch = collate([prompt], lm.pad_id)
        found = lm.generate(lm.embed(batch.ids), batch.mask, NEW, known=KnownTokens(batch.shared))
        assert found == [lm.generate_from_ids(prompt.ids, NEW)]
    assert lm.prefix == (batch.shared, None)
    assert capsys.readouterr().out.count("can't go on from what prompts share") == 1


def test_a_model_that_is_asked_a_prompt_at_a_time_reads_whole_prompts(lm: FrozenLM, params: Params) -> None:
    alone = replace(lm, batchable=False)
    batch = collate(encoded(lm, params), lm.pad_id)
    found = alone.generate(lm.embed(batch.ids), batch.mask, NEW, known=KnownTokens(batch.shared))
    assert found == [lm.generate_from_ids(prompt.ids, NEW) for prompt in encoded(lm, params)]
    assert alone.prefix == ((), None)


def test_mixed_precision_shares_examples_too(family: FrozenLM, params: Params) -> None:
    batch, asked = lesson_rows(family, params)
    embeddings = family.embed(batch.ids)
    with torch.autocast("cpu", torch.bfloat16):
        whole, shared = (
            family.logits_at(embeddings, batch.mask, asked, shared=beginning) for beginning in ((), batch.shared)
        )
    assert family.prefix[0] == batch.shared and family.prefix[1]
    assert (shared - whole).norm() < 0.05 * (whole - whole.mean(-1, keepdim=True)).norm()


def test_a_wrong_cache_is_found_out(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Prefix.cache
    monkeypatch.setattr(Prefix, "cache", lambda self, mask, kind: cache(self, mask.new_ones(mask.shape), kind))
    assert shareable(lm, list(range(5, 40))) is None


def test_questions_and_records_together_share_nothing(lm: FrozenLM, params: Params) -> None:
    prompts = encoded(lm, params)
    assert collate([*prompts, EncodedPrompt([5, 6], [True, True], truncated=False)], lm.pad_id).shared == ()
    other = prompts[0]._replace(ids=[7, *prompts[0].ids[1:]])
    assert collate([prompts[1], other], lm.pad_id).shared == ()


@pytest.mark.parametrize("prefix", ["text", "codec"])
@pytest.mark.parametrize("bos", ["text", "codec", "none"])
def test_examples_pass_through_the_codec_if_asked(lm: FrozenLM, params: Params, prefix: str, bos: str) -> None:
    for prompt in encoded(lm, params, shots_pass="codec", prefix=prefix, bos=bos):
        assert prompt.shared == 0
        first, last = prompt.coded.index(True), len(prompt.coded) - prompt.coded[::-1].index(True)
        if bos != "codec":
            assert all(prompt.coded[first:last])
        before = lm.tokenizer.decode(prompt.ids[:first]).removeprefix(str(lm.tokenizer.bos_token))
        assert before == ("Context:" if prefix == "text" and bos != "codec" else "")
        assert lm.tokenizer.decode(prompt.ids[last:]) == "\nAnswer:"


@pytest.mark.parametrize("prefix", ["text", "codec"])
def test_examples_as_text_leave_the_same_tokens_to_the_codec(lm: FrozenLM, params: Params, prefix: str) -> None:
    bare = encoded(lm, params, examples="", prefix=prefix)
    for prompt, own in zip(encoded(lm, params, prefix=prefix), bare, strict=True):
        assert prompt.ids[prompt.shared :] == own.ids[1:] and prompt.coded[prompt.shared :] == own.coded[1:]


def test_a_long_context_is_cut_and_examples_are_not(lm: FrozenLM, params: Params) -> None:
    pair = "begin " + "word " * 200, "What is Orvane?"
    whole = encode_prompt(lm.tokenizer, *pair, prompt_of(params))
    cut = encode_prompt(lm.tokenizer, *pair, prompt_of(params, max_length=whole.shared + 40))
    assert cut.truncated and len(cut.ids) == len(cut.coded) == whole.shared + 40
    assert cut.ids[: cut.shared] == whole.ids[: whole.shared]
    assert "begin word" in lm.tokenizer.decode(cut.ids) and lm.tokenizer.decode(cut.ids).endswith(
        "What is Orvane?\nAnswer:"
    )
    tight = prompt_of(params, max_length=whole.shared)
    with pytest.raises(
        InputError, match=r"no room for 2 examples and a question of \d+ tokens; raise it, lower prompt.shots"
    ):
        encode_prompt(lm.tokenizer, *pair, tight)
    with pytest.raises(InputError, match=r"question q: prompt.max_length"):
        check_questions(lm.tokenizer, [Example("q", *pair, ())], tight)
