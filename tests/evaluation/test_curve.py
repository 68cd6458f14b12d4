import re
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dvc_render import VegaRenderer
from making import answerer_of, codec_of

import narrowband.codec.adapter
import narrowband.evaluation.baselines
from narrowband.codec.adapter import ADAPTERS
from narrowband.codec.bitstream import STREAM_BITS
from narrowband.codec.codec import Codec
from narrowband.codec.coder import LatentCoder, Rate
from narrowband.codec.config import CodecConfig
from narrowband.codec.pca import PCA
from narrowband.codec.token_windows import coded_lengths, embedded, token_windows
from narrowband.data.prompts import encode_prompt
from narrowband.data.splits import world_example
from narrowband.evaluation.answer import QuestionAnswerer, QuestionSet
from narrowband.evaluation.baselines import REFERENCES, Fitting, MeanVector, TrainingText, rates
from narrowband.evaluation.curve import Entry, adapters, baselines, curve, references, with_answers
from narrowband.evaluation.quantizers import VectorQuantizer
from narrowband.experiments.estimate import CODEC_SYSTEMS, REFERENCE_SYSTEMS
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params

ROOT = Path(__file__).parent.parent.parent
RATE = 8.0
EXAMPLES = [world_example(0, "test", i) for i in range(6)]


@pytest.fixture
def small(params: Params) -> Params:
    generation = params.generation.model_copy(update={"max_new_tokens": 3})
    coding = params.latent_coding.model_copy(update={"bits_per_token": RATE})
    update = {"compress_dim": 8, "window": 2, "latent_bits": 6, "latent_coding": coding, "generation": generation}
    return params.model_copy(update=update)


def entries(lm: FrozenLM, params: Params) -> list[Entry]:
    train = [world_example(0, "train", i) for i in range(6)]
    prompts = [encode_prompt(lm.tokenizer, e.context, e.question, params.prompt) for e in train]
    vectors, windows = token_windows(lm, prompts, params.window)
    pca = PCA.fit(vectors, params.compress_dim, windows)
    pca_codec = codec_of(pca, params, pca_only=True)
    if params.magnitude == "calibrated":
        pca_codec.calibrate(embedded(lm, prompts, 4))
    fitting = Fitting(
        answerer_of(lm, params), prompts, params.seed, params.latent_coding.bits_per_token, 0.3, pca_codec
    )
    return references(fitting)[:-1] + baselines(fitting) + adapters(fitting, *[codec_of(pca, params)] * 2)


def rows_of(some: list[Entry], answerer: QuestionAnswerer) -> list[dict[str, Any]]:
    return curve(answerer, some, answerer.answer(None, EXAMPLES).predictions, QuestionSet(EXAMPLES, 0))


def test_rows_have_the_rate_that_can_be_counted_by_hand(lm: FrozenLM, small: Params) -> None:
    rows = rows_of(entries(lm, small), answerer_of(lm, small))
    coded = [sum(encode_prompt(lm.tokenizer, e.context, e.question, small.prompt).coded) for e in EXAMPLES]
    windows_per_token = sum(-(-n // 2) for n in coded) / sum(coded)
    rates = {(row["system"], row["setting"]): row["bits_per_token"] for row in rows}
    latents = {bits: pytest.approx(8 * bits * windows_per_token) for bits in (16, 6, 4)}
    fixed = {
        ("truncation", "first 4 of 32 components"): 64,
        ("random projection", "8 latents of 16 bits"): latents[16],
        **{("pca", f"8 latents of {bits} bits"): latents[bits] for bits in (16, 6, 4)},
        ("pca lookup", "8 latents of 6 bits"): latents[6],
        ("token id", "9 bits"): 9,
        ("phase1", "8 latents of 6 bits"): latents[6],
        **{("phase2", f"8 latents of {bits} bits"): latents[bits] for bits in (16, 6, 4)},
    }
    assert {name: rate for name, rate in rates.items() if name in fixed} == fixed
    header = STREAM_BITS * len(coded) / sum(coded)
    rotated = {("rotation", "2 levels"): 32 + 16 + header, ("rotation", "4 levels"): 32 * 1.911 + 16 + header}
    assert {name: rates[name] for name in rotated} == pytest.approx(rotated, rel=0.05)
    near = {(name, f"entropy-coded to {RATE:g} bits") for name in ("pca", "pca lookup", "phase2")}
    near |= {("scalar quantiser", f"to {RATE:g} bits")}
    below = {(name, f"up to {RATE:g} bits") for name in ("residual quantiser", "product quantiser")}
    below |= {("token id", "unigram model")}
    assert all(rates[name] == pytest.approx(RATE, rel=0.3) for name in near)
    assert all(1 < rates[name] < 1.3 * RATE for name in below)
    predicted = ("token id", "base model")  # by a random model, which knows less than nothing
    assert rates[predicted] > rates["token id", "unigram model"]
    assert rates.keys() == fixed.keys() | rotated.keys() | near | below | {predicted}
    for row in rows:
        assert row.keys() == {
            *("system", "setting", "bits_per_token", "f1", "em", "agreement", "f1_interval", "agreement_interval"),
            *("cosine", "norm_ratio", "token_match"),
        }
        for name in ("f1", "agreement"):
            assert row[f"{name}_interval"]["low"] <= row[name] <= row[f"{name}_interval"]["high"]


def test_the_estimate_of_time_counts_every_system(lm: FrozenLM, small: Params) -> None:
    params = small.model_copy(update={"latent_bits": 16})
    found = with_answers(entries(lm, params), CodecConfig.of(params), {"pca": {}, "phase1": {}, "phase2": {}})
    codec = [entry.name for entry in found].index("truncation")  # the first that depends on the codec
    asked = [entry for entry in found[codec:] if entry.answers is None]
    assert (codec + 1, len(asked)) == (REFERENCE_SYSTEMS, CODEC_SYSTEMS)  # with nothing sent


def test_answers_that_evaluate_wrote_are_not_generated_again(
    lm: FrozenLM, small: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = answerer_of(lm, small)
    found = [entry for entry in entries(lm, small) if entry.name in ("pca", "phase1", "phase2")]
    trained = [entry for entry in found if entry.setting == "8 latents of 6 bits"]
    answers = {entry.name: answerer.answer(entry.system, EXAMPLES).predictions for entry in trained}
    known = with_answers(found, CodecConfig.of(small), answers)
    assert [entry.name for entry in known if entry.answers is not None] == ["pca", "phase1", "phase2"]
    expected = rows_of(found, answerer)
    own = answerer.answer(None, EXAMPLES).predictions
    calls: list[int] = []
    generate = FrozenLM.generate
    monkeypatch.setattr(FrozenLM, "generate", lambda *given: calls.append(1) or generate(*given))
    assert curve(answerer, known, own, QuestionSet(EXAMPLES, 0)) == expected
    assert len(calls) == sum(entry.answers is None for entry in known) * -(-len(EXAMPLES) // answerer.batch_size)


def test_the_control_is_the_mean_of_the_coded_training_tokens_and_costs_nothing(lm: FrozenLM, small: Params) -> None:
    answerer = answerer_of(lm, small)
    prompts = answerer.encode(world_example(0, "train", i) for i in range(6))
    entry = references(TrainingText(answerer, prompts, 0, RATE, 0.3))[-1]
    ids = [i for prompt in prompts for i, coded in zip(prompt.ids, prompt.coded, strict=True) if coded]
    assert isinstance(entry.system, MeanVector)
    torch.testing.assert_close(entry.system.mean, lm.embed(torch.tensor(ids)).mean(0))
    (row,) = rows_of([entry], answerer)
    assert row["bits_per_token"] == 0 and row["cosine"] < 0.9


def test_quantisers_are_fitted_on_random_vocabulary_tokens_too_and_the_unigram_model_is_not(
    lm: FrozenLM, small: Params
) -> None:
    answerer = answerer_of(lm, small)
    prompts = answerer.encode(world_example(0, "train", i) for i in range(6))
    text, plain = (TrainingText(answerer, prompts, 0, RATE, share) for share in (0.5, 0.0))
    (_, weights, sent), (_, occurring, _) = text.sample, plain.sample
    assert len(weights) > 1.5 * len(occurring) and weights.sum() == occurring.sum()
    assert sent.sum() == occurring.sum() and torch.equal(sent[sent > 0], occurring)  # code lengths are those of prompts
    assert torch.equal(text.counts, plain.counts) and torch.equal(text.mean_vector.mean, plain.mean_vector.mean)
    unseen = lm.vocabulary[(plain.counts == 0).nonzero()[:, 0]]
    coded = torch.ones(1, len(unseen), dtype=torch.bool)

    def error(text: TrainingText) -> float:
        quantizer = VectorQuantizer.residual(text.sample, 10.0, seed=0)
        return float((quantizer(unseen[None], coded) - unseen).square().mean())

    assert error(text) < 0.5 * error(plain)


def test_what_a_lookup_is_fitted_on_does_not_depend_on_the_batch_size(lm: FrozenLM, small: Params) -> None:
    prompts = answerer_of(lm, small).encode(world_example(0, "train", i) for i in range(6))
    vectors, windows = token_windows(lm, prompts, small.window)
    pca = codec_of(PCA.fit(vectors, small.compress_dim, windows), small, pca_only=True)
    sizes = [replace(answerer_of(lm, small), batch_size=size) for size in (1, 6)]
    first, second = (Fitting(answerer, prompts, 0, RATE, 0.3, pca).windows for answerer in sizes)
    assert torch.equal(first, second) and len(first) == sum(-(-sum(prompt.coded) // small.window) for prompt in prompts)


@pytest.mark.parametrize("rate", [0.1, 1000.0])
def test_where_a_rate_cannot_be_met_the_other_rows_remain(lm: FrozenLM, small: Params, rate: float) -> None:
    coding = small.latent_coding.model_copy(update={"bits_per_token": rate})
    found = entries(lm, small.model_copy(update={"latent_coding": coding}))
    names = {entry.name for entry in found}
    assert {"truncation", "pca", "pca lookup", "token id", "phase2"} <= names and "scalar quantiser" not in names
    assert not any("entropy" in entry.setting for entry in found)


def test_a_codec_with_a_coder_of_its_own_keeps_it(lm: FrozenLM, small: Params) -> None:
    coding = small.latent_coding.model_copy(update={"kind": "entropy"})
    prompts = answerer_of(lm, small).encode(world_example(0, "train", i) for i in range(6))
    windows = token_windows(lm, prompts, small.window)
    pca, config = PCA.fit(windows[0], small.compress_dim, windows[1]), CodecConfig.of(small)
    config = replace(config, latent_coding=coding)
    coder = LatentCoder.fit(pca, *windows, Rate(config.latent_coding, config.magnitude, coded_lengths(prompts)))
    own = Fitting(answerer_of(lm, small), prompts, 0, RATE, 0.3, Codec(pca, config, coder, pca_only=True))
    assert own.coder is coder
    fixed = Fitting(answerer_of(lm, small), prompts, 0, RATE, 0.3, codec_of(pca, small, pca_only=True))
    assert fixed.coder and torch.equal(fixed.coder.model.step, coder.model.step)
    assert list(rates(own.pca, own.coder)) == [
        f"entropy-coded to {RATE:g} bits",
        *(f"8 latents of {bits} bits" for bits in (16, 4)),
    ]


def test_the_token_id_answers_like_the_model_without_a_codec(lm: FrozenLM, small: Params) -> None:
    token_id = next(entry for entry in entries(lm, small) if entry.name == "token id")
    found = answerer_of(lm, small).answer(token_id.system, EXAMPLES)
    assert found.predictions == answerer_of(lm, small).answer(None, EXAMPLES).predictions
    assert found.quality["token_match"] == 100 and found.quality["mse"] == 0


def test_all_rows_search_one_normalised_table(lm: FrozenLM, small: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.Tensor] = []
    monkeypatch.setattr(torch.nn.functional, "normalize", recording(torch.nn.functional.normalize, made))
    one = replace(lm)  # without what the model has cached
    rows_of(entries(one, small), answerer_of(one, small))
    assert sum(torch.equal(table, one.vocabulary) for table in made) == 1


def recording(function: Callable[..., torch.Tensor], given: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
    def called(tensor: torch.Tensor, **options: int) -> torch.Tensor:
        given.append(tensor)
        return function(tensor, **options)

    return called


def test_a_calibrated_scale_is_fitted_for_every_rate_of_the_pca(lm: FrozenLM, small: Params) -> None:
    calibrated = small.model_copy(update={"magnitude": "calibrated"})
    for entry in entries(lm, calibrated):
        if entry.name == "pca":
            assert isinstance(entry.system, Codec) and not torch.equal(entry.system.scale, torch.ones(()))


@pytest.mark.parametrize("shown", ["f1", "agreement"])
def test_the_plot_template_shows_rate_quality_and_interval(shown: str) -> None:
    point = {
        "system": "pca",
        "bits_per_token": 9.0,
        shown: 50.0,
        f"{shown}_interval": {"low": 40.0, "high": 60.0},
        "rev": "a",
    }
    labels = {"x": "bits_per_token", "y": shown, "x_label": "rate", "y_label": "quality", "title": "curve"}
    renderer = VegaRenderer([point], "plot", template="rate", template_dir=str(ROOT / ".dvc" / "plots"), **labels)
    filled = renderer.get_filled_template()
    assert filled["data"]["values"] == [point]
    assert filled["encoding"]["x"]["field"] == "bits_per_token" and filled["encoding"]["x"]["title"] == "rate"
    line, interval, points = (layer["encoding"] for layer in filled["layer"])
    assert line["y"]["field"] == points["y"]["field"] == shown and points["y"]["title"] == "quality"
    assert (interval["y"]["field"], interval["y2"]["field"]) == (f"{shown}_interval.low", f"{shown}_interval.high")
    assert "<DVC_METRIC" not in renderer.partial_html()


def test_a_codec_added_as_the_page_says_gets_its_row(
    lm: FrozenLM, small: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs the code of docs/extending.md, so that the page stays true."""
    page = (ROOT / "docs" / "extending.md").read_text()
    code = [textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]
    space = dict(vars(narrowband.evaluation.baselines))
    exec(code[0], space)
    line = next(line for line in code[1].splitlines() if '"signs"' in line)
    monkeypatch.setitem(REFERENCES, *next(iter(eval("{" + line + "}", space).items())))
    rows = rows_of(entries(lm, small), answerer_of(lm, small))
    (row,) = [row for row in rows if row["system"] == "signs"]
    assert row["setting"] == "1 bit a component" and row["bits_per_token"] == 32 + 16 and 0 < row["cosine"] < 1


def test_an_adapter_added_as_the_page_says_is_made_by_its_kind(
    lm: FrozenLM, small: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "extending.md").read_text()
    code = [textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]
    space = {**vars(narrowband.codec.adapter)}
    exec(code[2], space)
    monkeypatch.setitem(ADAPTERS, "linear", space["LinearAdapter"])
    vectors = torch.randn(200, 2 * lm.hidden_size, generator=torch.Generator().manual_seed(0))
    pca = PCA.fit(vectors, small.compress_dim)
    linear = codec_of(pca, small.model_copy(update={"adapter": small.adapter.model_copy(update={"kind": "linear"})}))
    embeddings, coded = vectors[:3].view(1, 6, -1), torch.ones(1, 6, dtype=torch.bool)
    torch.testing.assert_close(linear(embeddings, coded), codec_of(pca, small, pca_only=True)(embeddings, coded))
