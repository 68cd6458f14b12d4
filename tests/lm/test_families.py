"""What the project takes for granted of a base model, shown on a tiny checkpoint of every family that it is meant for."""

from dataclasses import replace
from pathlib import Path
from unicodedata import is_normalized

import pytest
import torch
from families import FAMILIES, TEXTS, save_family
from making import codec_of

from narrowband.codec.codec import Codec
from narrowband.codec.pca import PCA
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import collate, encode_answer, encode_prompt
from narrowband.data.splits import world_example
from narrowband.lm.base_model import max_positions, outline
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.stop import Reply, decode_after
from narrowband.params import Params
from narrowband.reader.split_prompt import split_prompt
from narrowband.sft.pool import are_exact
from narrowband.training.losses import generation_loss
from narrowband.training.phase2 import Lesson, teacher_forced

NEW = 8


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def family(folder: Path) -> FrozenLM:
    return FrozenLM.load(str(folder))


@pytest.fixture
def prompts(family: FrozenLM, params: Params) -> list[EncodedPrompt]:
    """Prompts of unlike length and of several scripts, one of them short."""
    examples = [world_example(0, "test", i) for i in range(2)]
    pairs = [(e.context, e.question) for e in examples] + [("A b.", "C?")]
    pairs += [(text, f"{text[:9]}?") for text in TEXTS]
    return [encode_prompt(family.tokenizer, *pair, params.prompt) for pair in pairs]


@pytest.fixture
def answers(family: FrozenLM, prompts: list[EncodedPrompt]) -> list[Reply]:
    """The model's own greedy answers to the prompts' token ids, one prompt at a time."""
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt.ids])
        tokens = family.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=family.tokenizer.eos_token_id,
            pad_token_id=family.pad_id,
        )
        found += family.replies(tokens[:, ids.shape[1] :], "line")
    assert any(reply.text for reply in found)
    return found


def identity(family: FrozenLM, params: Params) -> Codec:
    """A codec of as many latents as a window has numbers, so that it gives back what it is given."""
    width = 2 * family.hidden_size
    vectors = torch.randn(2 * width, width, generator=torch.Generator().manual_seed(0))
    settings = params.model_copy(update={"window": 2, "compress_dim": width, "latent_bits": 32})
    return codec_of(PCA.fit(vectors, width), settings, pca_only=True)


@pytest.mark.parametrize("batch", [1, 3])
def test_an_identity_codec_answers_as_the_model_does_from_ids(
    family: FrozenLM, params: Params, prompts: list[EncodedPrompt], answers: list[Reply], batch: int
) -> None:
    codec = identity(family, params)
    for rebuild in (lambda embeddings, coded: embeddings, codec):
        found = []
        for start in range(0, len(prompts), batch):
            padded = collate(prompts[start : start + batch], family.pad_id)
            found += family.generate(rebuild(family.embed(padded.ids), padded.coded), padded.mask, NEW)
        assert found == answers


def test_left_padded_rows_have_the_logits_of_single_rows(family: FrozenLM, prompts: list[EncodedPrompt]) -> None:
    padded = collate(prompts, family.pad_id)
    together = family.logits(family.embed(padded.ids), padded.mask, 3)
    for prompt, logits in zip(prompts, together, strict=True):
        alone = family.model(torch.tensor([prompt.ids])).logits[0, -3:]
        torch.testing.assert_close(logits, alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("batchable", [True, False])
def test_logits_of_wanted_positions_are_among_those_of_all(
    family: FrozenLM, prompts: list[EncodedPrompt], batchable: bool
) -> None:
    padded = collate(prompts, family.pad_id)
    wanted = torch.arange(3) >= torch.arange(len(prompts))[:, None] % 3
    asked = replace(family, batchable=batchable)
    embeddings = family.embed(padded.ids).requires_grad_()
    all_of_them, chosen = asked.logits(embeddings, padded.mask, 3), asked.logits_at(embeddings, padded.mask, wanted)
    torch.testing.assert_close(chosen, all_of_them[wanted], rtol=1e-4, atol=1e-4)
    plain, own = (
        torch.autograd.grad(logits.log_softmax(-1)[:, 5].sum(), embeddings)[0]
        for logits in (all_of_them[wanted], chosen)
    )
    torch.testing.assert_close(own, plain, rtol=1e-3, atol=1e-4)
    assert asked.logits(embeddings, padded.mask, 3).shape == all_of_them.shape  # nothing is left behind


def test_phase_2_gradients_reach_all_of_the_adapter_and_nothing_else(
    family: FrozenLM, params: Params, prompts: list[EncodedPrompt]
) -> None:
    settings = params.model_copy(update={"window": 2, "compress_dim": 8})
    vectors = torch.randn(200, 2 * family.hidden_size, generator=torch.Generator().manual_seed(0))
    codec = codec_of(PCA.fit(vectors, 8), settings)
    torch.nn.init.normal_(codec.adapter.leave.weight, generator=torch.Generator().manual_seed(1))
    lessons = [Lesson(prompt, encode_answer(family.tokenizer, "in 1250")) for prompt in prompts]
    generation_loss(*teacher_forced(family, codec, lessons), params.loss.phase2, params.loss.phase1).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in codec.adapter.parameters())
    assert all(p.grad is None and not p.requires_grad for p in family.model.parameters())


def test_embeddings_come_from_the_module_and_their_width_is_known_without_weights(
    folder: Path, family: FrozenLM
) -> None:
    model = outline(str(folder))
    assert model.get_input_embeddings().embedding_dim == family.hidden_size == family.vocabulary.shape[1]
    assert max_positions(model) == (None if model.config.model_type in ("bloom", "mamba") else 640)
    scaled = "gemma" in type(family.model).__name__.lower()
    weight = family.embedding.weight[: len(family.tokenizer)]
    torch.testing.assert_close(family.vocabulary, weight * (32**0.5 if scaled else 1), rtol=1e-2, atol=0)


@pytest.mark.parametrize("answer", ["Orvane", *TEXTS])
def test_an_answer_is_told_apart_as_the_model_would_write_it(answer: str, family: FrozenLM) -> None:
    def ids(text: str) -> list[int]:
        return family.tokenizer(text, add_special_tokens=False).input_ids

    assert ids("Answer:") + encode_answer(family.tokenizer, answer) == ids(f"Answer: {answer}\n")


@pytest.mark.parametrize("text", TEXTS)
def test_a_prompt_loses_tokens_of_its_context_alone_even_within_a_character(
    text: str, family: FrozenLM, params: Params
) -> None:
    tokenizer = family.tokenizer
    parts = split_prompt(tokenizer, text, "Who?", params.prompt)
    before, asked = ([*parts.head, *parts.context], parts.question)
    assert tokenizer.decode(before + asked).endswith("\nQuestion: Who?\nAnswer:")
    assert decode_after(tokenizer, before, asked) == "\nQuestion: Who?\nAnswer:"
    for lost in range(1, len(parts.context)):
        fewer = params.prompt.model_copy(update={"max_length": len(parts.ids) - lost})
        cut = encode_prompt(tokenizer, text, "Who?", fewer)
        assert cut.truncated and cut.ids == before[:-lost] + asked
        assert split_prompt(tokenizer, text, "Who?", fewer).ids == cut.ids


@pytest.mark.parametrize("text", TEXTS)
def test_only_a_text_that_the_tokenizer_changes_is_not_exact(text: str, family: FrozenLM) -> None:
    normalises = family.tokenizer.backend_tokenizer.normalizer is not None
    assert are_exact(family.tokenizer, [text, f"Fog. {text}\n"]) == [is_normalized("NFC", text) or not normalises] * 2
