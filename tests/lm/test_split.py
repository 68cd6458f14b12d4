"""States after a block are transformers' own, and a model that reads them back answers as it always does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import FAMILIES, save_family
from making import codec_of

from narrowband.codec.fitting import fit_pca
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import Batch, SettledPrompt, collate, encode_answer, encode_prompt, worked_examples
from narrowband.data.splits import world_example
from narrowband.lm.base_model import outline
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.rows import KnownTokens
from narrowband.lm.split import blocks, require_source
from narrowband.params import InputError, Params
from narrowband.training.phase2 import Lesson, lay_out, teacher_forced

NEW = 8
BLOCKS = 3
SPLITTABLE = sorted(FAMILIES.keys() - {"opt", "mamba"})
"""OPT's tiny checkpoint has embeddings narrower than its states; Mamba counts its hidden states otherwise, and shares none."""


def save(name: str, folder: Path) -> Path:
    """A checkpoint of three blocks."""
    layers = {"num_hidden_layers": BLOCKS} if name != "gpt2" else {"n_layer": BLOCKS}
    if "gemma" in name:
        layers["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    return save_family(name, folder, **layers)


@pytest.fixture(scope="module", params=SPLITTABLE)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FrozenLM:
    return FrozenLM.load(str(save(request.param, tmp_path_factory.mktemp(request.param))))


@pytest.fixture(params=[1, 2])
def split(request: pytest.FixtureRequest, family: FrozenLM) -> FrozenLM:
    return replace(family, sender_blocks=request.param)


def prompts_of(lm: FrozenLM, prompt: SettledPrompt) -> list[EncodedPrompt]:
    """Three prompts of unlike length, one of them short."""
    examples = [world_example(0, "test", i) for i in range(2)]
    pairs = [(e.context, e.question) for e in examples] + [("A b.", "C?")]
    return [encode_prompt(lm.tokenizer, *pair, prompt) for pair in pairs]


@pytest.fixture
def settled(params: Params) -> SettledPrompt:
    return SettledPrompt(**{**params.prompt.model_dump(), "bos": "text", "max_length": 640})


@pytest.fixture
def prompts(family: FrozenLM, settled: SettledPrompt) -> list[EncodedPrompt]:
    return prompts_of(family, settled)


def block_params(params: Params, lm: FrozenLM, **changes: object) -> Params:
    return params.model_copy(update={"source": f"block-{lm.sender_blocks}", "latent_bits": 32, **changes})


@pytest.mark.parametrize("batchable", [True, False])
def test_states_are_the_hidden_states_of_transformers(
    split: FrozenLM, prompts: list[EncodedPrompt], batchable: bool
) -> None:
    batch = collate(prompts, split.pad_id)
    states = replace(split, batchable=batchable).states(batch.ids, batch.mask)
    for prompt, row, mask in zip(prompts, states, batch.mask, strict=True):
        asked = split.model(torch.tensor([prompt.ids]), output_hidden_states=True)
        torch.testing.assert_close(row[mask], asked.hidden_states[split.sender_blocks][0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("batchable", [True, False])
def test_an_identity_codec_of_states_answers_as_the_model_does_from_ids(
    split: FrozenLM, params: Params, prompts: list[EncodedPrompt], batchable: bool
) -> None:
    width = 2 * split.hidden_size
    settings = block_params(params, split, window=2, compress_dim=width)
    codec = codec_of(fit_pca(split, prompts, width, 2), settings, pca_only=True)
    batch = collate(prompts, split.pad_id)
    asked = replace(split, batchable=batchable)
    states = asked.states(batch.ids, batch.mask)
    rebuilt = codec(states, batch.coded)
    torch.testing.assert_close(rebuilt, states, rtol=1e-3, atol=1e-3)
    expected = [split.generate_from_ids(prompt.ids, NEW) for prompt in prompts]
    assert any(reply.text for reply in expected)
    for sent in (states, rebuilt):
        assert asked.generate(sent, batch.mask, NEW, known=KnownTokens(ids=batch.ids)) == expected
    assert split.generate(split.embed(batch.ids), batch.mask, NEW) == expected  # nothing is left behind


def test_prompts_with_other_states_get_other_answers(split: FrozenLM, prompts: list[EncodedPrompt]) -> None:
    batch = collate([prompts[0]], split.pad_id)
    states = split.states(batch.ids, batch.mask)
    other = split.states(batch.ids.flip(1), batch.mask)
    assert split.generate(states, batch.mask, NEW, known=KnownTokens(ids=batch.ids)) != split.generate(
        other, batch.mask, NEW, known=KnownTokens(ids=batch.ids)
    )


def by_hand(lm: FrozenLM, batch: Batch, states: torch.Tensor) -> torch.Tensor:
    """Logits of a single unpadded row whose states are set by a hook on the block before them."""
    hook = blocks(lm.model)[lm.sender_blocks - 1].register_forward_hook(
        lambda module, inputs, output: (states, *output[1:]) if isinstance(output, tuple) else states
    )
    try:
        return lm.model(batch.ids).logits
    finally:
        hook.remove()


def test_logits_and_gradients_are_those_of_the_blocks_after_the_states(
    split: FrozenLM, prompts: list[EncodedPrompt]
) -> None:
    batch = collate([prompts[0]], split.pad_id)
    states = split.states(batch.ids, batch.mask)
    noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    sent = (states + 0.1 * noise).requires_grad_()
    wanted = torch.ones(1, 5, dtype=torch.bool)
    found, expected = split.logits_at(sent, batch.mask, wanted, ids=batch.ids), by_hand(split, batch, sent)[0, -5:]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    gradients = [torch.autograd.grad(one.log_softmax(-1)[:, 5].sum(), sent)[0] for one in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
    assert gradients[0].abs().sum(-1)[0, -8:].all()  # earlier ones may be outside a sliding window


def test_phase_2_trains_the_adapter_and_its_teacher_is_the_model_itself(
    split: FrozenLM, params: Params, prompts: list[EncodedPrompt]
) -> None:
    codec = codec_of(fit_pca(split, prompts, 8, 1), block_params(params, split, window=1, compress_dim=8))
    torch.nn.init.normal_(codec.adapter.leave.weight, generator=torch.Generator().manual_seed(1))
    lessons = [Lesson(prompt, encode_answer(split.tokenizer, "in 1250")) for prompt in prompts]
    answers, pair = teacher_forced(split, codec, lessons)
    rows = lay_out(split, lessons)
    plain = split.logits_at(split.embed(rows.batch.ids), rows.batch.mask, rows.mask)
    torch.testing.assert_close(answers.teacher, plain, rtol=1e-3, atol=1e-3)
    assert pair.original.shape == (sum(sum(prompt.coded) for prompt in prompts), split.hidden_size)
    answers.student.log_softmax(-1)[:, 5].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in codec.adapter.parameters())
    assert all(p.grad is None for p in split.model.parameters())


def test_worked_examples_are_read_once_for_states_too(split: FrozenLM, settled: SettledPrompt) -> None:
    shots = worked_examples([world_example(0, "train", i) for i in range(2)])
    after = settled.model_copy(update={"examples": shots, "shots": 2})
    prompts = prompts_of(split, after)
    batch = collate(prompts, split.pad_id)
    assert batch.shared
    states = split.states(batch.ids, batch.mask)
    found = split.generate(states, batch.mask, NEW, known=KnownTokens(batch.shared, ids=batch.ids))
    assert found == [split.generate_from_ids(prompt.ids, NEW) for prompt in prompts]
    assert split.prefix[0] == batch.shared and split.prefix[1]
    wanted = torch.ones(len(prompts), 2, dtype=torch.bool)
    noisy = states + 0.1 * torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    noisy = torch.where(batch.coded[..., None], noisy, states)
    whole, rest = (split.logits_at(noisy, batch.mask, wanted, shared, batch.ids) for shared in ((), batch.shared))
    torch.testing.assert_close(rest, whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            "block-3",
            "source block-3 leaves no block after the codec, as the base model has 3; choose embeddings, or block-1",
        ),
        ("block-99", "choose embeddings, or block-1 to block-2"),
    ],
)
def test_a_block_that_the_model_does_not_have_is_refused(tmp_path: Path, source: str, sentence: str) -> None:
    folder = str(save("llama", tmp_path))
    for ask in (lambda: FrozenLM.load(folder, source), lambda: require_source(outline(folder), source)):
        with pytest.raises(InputError, match=sentence):
            ask()
    assert FrozenLM.load(folder, "block-2").sender_blocks == require_source(outline(folder), "block-2") == 2
    assert FrozenLM.load(folder).sender_blocks == 0


def test_a_model_of_one_block_and_one_of_narrow_embeddings_take_embeddings_alone(tmp_path: Path) -> None:
    one = save_family("llama", tmp_path / "one", num_hidden_layers=1)
    with pytest.raises(InputError, match=r"as the base model has 1; choose embeddings$"):
        require_source(outline(str(one)), "block-1")
    narrow = save_family("opt", tmp_path / "narrow")
    with pytest.raises(InputError, match="embeddings of 16 numbers and states of 32; set source to embeddings"):
        require_source(outline(str(narrow)), "block-1")
    assert require_source(outline(str(narrow)), "embeddings") == 0
