"""Systems that send states after a block: quality, rate and answers, from fitting to evaluation."""

from dataclasses import replace

import pytest
import torch
from making import answerer_of, codec_of
from sklearn.decomposition import PCA as ReferencePCA

from narrowband.codec.codec import Codec
from narrowband.codec.coder import LatentCoder
from narrowband.codec.config import CodecConfig
from narrowband.codec.fitting import fit_coder, fit_pca
from narrowband.data.encoded import EncodedPrompts
from narrowband.data.prompts import collate
from narrowband.data.splits import world_example
from narrowband.evaluation.answer import QuestionSet
from narrowband.evaluation.baselines import Fitting, TrainingText, entropy_coded
from narrowband.evaluation.compare import compare
from narrowband.evaluation.curve import adapters, baselines, curve, curve_table, references
from narrowband.evaluation.headline import headline_table
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params

EXAMPLES = [world_example(0, "test", i) for i in range(5)]
RATE = 20.0


@pytest.fixture
def split(lm: FrozenLM) -> FrozenLM:
    return replace(lm, sender_blocks=1)


@pytest.fixture
def small(params: Params) -> Params:
    generation = params.generation.model_copy(update={"max_new_tokens": 3, "batch_size": 2})
    coding = params.latent_coding.model_copy(update={"bits_per_token": RATE})
    settings = {"source": "block-1", "compress_dim": 8, "window": 1, "latent_coding": coding, "generation": generation}
    return params.model_copy(update=settings)


@pytest.fixture
def train(split: FrozenLM, small: Params) -> EncodedPrompts:
    return answerer_of(split, small).encode([world_example(0, "train", i) for i in range(6)])


def reference_states(lm: FrozenLM, prompts: EncodedPrompts) -> torch.Tensor:
    """The coded tokens' states after one block, as transformers reports them, one prompt at a time."""
    rows = []
    for prompt in prompts:
        states = lm.model(torch.tensor([prompt.ids]), output_hidden_states=True).hidden_states[1][0]
        rows.append(states[torch.tensor(prompt.coded)])
    return torch.cat(rows)


def test_the_pca_is_that_of_the_states_of_all_training_prompts(split: FrozenLM, train: EncodedPrompts) -> None:
    pca = fit_pca(split, train, 6, 1)
    reference = ReferencePCA(6, svd_solver="full").fit(reference_states(split, train).double().numpy())
    torch.testing.assert_close(pca.mean, torch.from_numpy(reference.mean_).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        pca.explained_variance, torch.from_numpy(reference.explained_variance_).float(), rtol=1e-3, atol=0
    )
    assert pca.explained_share == pytest.approx(reference.explained_variance_ratio_.sum(), rel=1e-4)


def test_a_codec_without_loss_gives_the_models_own_answers(
    split: FrozenLM, small: Params, train: EncodedPrompts
) -> None:
    width = 2 * split.hidden_size
    settings = small.model_copy(update={"window": 2, "compress_dim": width, "latent_bits": 32})
    codec = codec_of(fit_pca(split, train, width, 2), settings, pca_only=True)
    answerer = answerer_of(split, settings)
    seen = torch.arange(50)
    systems, own = dict.fromkeys(("pca", "phase1", "phase2"), codec), answerer.answer(None, EXAMPLES)
    found = compare(answerer, systems, own, QuestionSet(EXAMPLES, 0, seen))
    row = found.headline["pca"]
    assert row.keys() == {"f1", "em", "agreement", "cosine", "norm_ratio"}
    assert row["cosine"] == pytest.approx(1, abs=1e-4) and row["norm_ratio"] == pytest.approx(1, abs=1e-4)
    assert found.details["pca"]["relative_error"] < 1e-3 and found.details["pca"]["seen"].keys() == {"cosine"}
    plain = answerer_of(replace(split, sender_blocks=0), settings).answer(None, EXAMPLES)
    assert found.predictions["pca"] == found.predictions["uncompressed"] == plain.predictions
    assert headline_table(found.headline, found.details).row_count == 4


@pytest.mark.parametrize("window", [1, 2])
def test_streams_of_states_are_decoded_to_what_forward_returns(
    split: FrozenLM, small: Params, train: EncodedPrompts, window: int
) -> None:
    config = entropy_coded(CodecConfig.of(small.model_copy(update={"window": window})))
    pca = fit_pca(split, train, 8, window)
    codec = Codec(pca, config, fit_coder(split, train, pca, config.latent_coding, config.magnitude))
    batch = collate(train, split.pad_id)
    states = split.states(batch.ids, batch.mask)
    streams = codec.encode(states, batch.coded)
    decoded = torch.cat(codec.decode(streams))
    torch.testing.assert_close(decoded, codec(states, batch.coded)[batch.coded], rtol=1e-4, atol=1e-5)
    assert 8 * sum(map(len, streams)) / int(batch.coded.sum()) == pytest.approx(RATE, rel=0.15)


def test_quantisers_are_fitted_on_evenly_spaced_states_whatever_the_batches(
    split: FrozenLM, small: Params, train: EncodedPrompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = reference_states(split, train)
    monkeypatch.setattr("narrowband.evaluation.baselines.MOST_STATES", len(states) // 5)
    monkeypatch.setattr("narrowband.evaluation.baselines.PROMPTS_AT_ONCE", 1)
    drawn = TrainingText(answerer_of(split, small), train, 0, RATE, 0.0).sample.vectors
    every = -(-len(states) // (len(states) // 5))
    torch.testing.assert_close(drawn, states[::every], rtol=1e-3, atol=1e-4)


def test_baselines_are_those_that_need_no_embedding_table(
    split: FrozenLM, small: Params, train: EncodedPrompts, capsys: pytest.CaptureFixture[str]
) -> None:
    pca = fit_pca(split, train, 8, 1)
    answerer = answerer_of(split, small)
    fitting = Fitting(answerer, train, 0, RATE, 0.0, codec_of(pca, small, pca_only=True))
    states, weights, sent = fitting.sample
    torch.testing.assert_close(states, reference_states(split, train), rtol=1e-3, atol=1e-4)
    assert weights.tolist() == sent.tolist() == [1] * len(states)
    assert isinstance(fitting.coder, LatentCoder)
    codecs = adapters(fitting, codec_of(pca, small), codec_of(pca, small))
    entries = references(fitting)[:-1] + baselines(fitting) + codecs
    said = capsys.readouterr().out
    assert "no rows for pca lookup:" in said and "no rows for token id:" in said
    own = answerer.answer(None, EXAMPLES).predictions
    rows = curve(answerer, entries, own, QuestionSet(EXAMPLES, 0))
    found = {row["system"]: row for row in rows}
    assert found.keys() == {
        *("truncation", "random projection", "scalar quantiser", "residual quantiser", "product quantiser"),
        *("rotation", "pca", "phase1", "phase2"),
    }
    assert all("token_match" not in row and -1 <= row["cosine"] <= 1 for row in rows)
    for name in ("scalar quantiser", "residual quantiser", "product quantiser"):
        assert 1 < found[name]["bits_per_token"] < 1.5 * RATE
    assert curve_table(rows).row_count == len(rows)
