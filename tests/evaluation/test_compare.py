import pytest
import torch
from making import answerer_of, codec_of

from narrowband.codec.pca import PCA
from narrowband.data.squad import Answer, Example
from narrowband.evaluation import answer
from narrowband.evaluation.answer import QuestionSet
from narrowband.evaluation.compare import Comparison, compare
from narrowband.evaluation.headline import TITLES
from narrowband.evaluation.reconstruction import Quality
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.nearest import NearestTokens
from narrowband.lm.stop import Reply
from narrowband.params import Params

LONG = "Orvane is a town. " * 40
ANSWERABLE = [
    Example("a", "Orvane is a town.", "What is Orvane?", (Answer("a town", 10), Answer("town", 12))),
    Example("b", LONG, "What is Orvane?", (Answer("a town", 10),)),
]
UNANSWERABLE = [Example("c", "Orvane is a town.", "Who is Belmir?", ()), Example("d", LONG, "Who is Belmir?", ())]


@pytest.fixture
def settings(params: Params) -> Params:
    changes = {"window": 2, "compress_dim": 16, "prompt": params.prompt.model_copy(update={"max_length": 80})}
    generation = params.generation.model_copy(update={"max_new_tokens": 3})
    return params.model_copy(update={**changes, "generation": generation})


def compared(lm: FrozenLM, examples: list[Example], settings: Params, seen: torch.Tensor | None = None) -> Comparison:
    vectors = torch.randn(40, settings.window * lm.hidden_size, generator=torch.Generator().manual_seed(0))
    codec = codec_of(PCA.fit(vectors, settings.compress_dim), settings, pca_only=True)
    answerer, systems = answerer_of(lm, settings), {name: codec for name in TITLES if name != "uncompressed"}
    own = answerer.answer(None, examples)
    return compare(answerer, systems, own, QuestionSet(examples, 0, seen))


def test_prompts_that_were_cut_short_are_counted(lm: FrozenLM, settings: Params) -> None:
    assert compared(lm, ANSWERABLE, settings).details["truncated_share"] == 0.5
    assert compared(lm, ANSWERABLE[:1], settings).details["truncated_share"] == 0


def test_each_kind_of_question_has_its_own_f1_where_some_are_unanswerable(
    lm: FrozenLM, settings: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FrozenLM, "generate", lambda self, embeddings, *rest: [Reply("town", False)] * len(embeddings))
    both = compared(lm, ANSWERABLE + UNANSWERABLE, settings)
    found = both.details["phase2"]
    assert found["answerable_f1"] == pytest.approx((100 + 100) / 2)  # articles do not count
    assert found["unanswerable_f1"] == 0 and both.headline["phase2"]["f1"] == pytest.approx(50)
    assert found["form"] == {"empty": 0, "cut": 0, "run_on": 0}
    assert "answerable_f1" not in compared(lm, ANSWERABLE, settings).details["phase2"]


def test_of_no_f1_none_is_retained(lm: FrozenLM, settings: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(["", "", *["town"] * 6])
    monkeypatch.setattr(
        FrozenLM, "generate", lambda self, embeddings, *rest: [Reply(next(said), False) for _ in embeddings]
    )
    headline = compared(lm, ANSWERABLE, settings).headline
    assert headline["uncompressed"]["f1"] == 0 < headline["phase2"]["f1"] and headline["f1_retained"] == 0


def test_of_a_large_vocabulary_some_places_are_searched_for(
    lm: FrozenLM, settings: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[int] = []
    search = NearestTokens.__call__
    monkeypatch.setattr(
        NearestTokens,
        "__call__",
        lambda self, embeddings: (searched.append(len(embeddings)), search(self, embeddings))[1],
    )
    whole, every = compared(lm, ANSWERABLE, settings), sum(searched)
    searched.clear()
    monkeypatch.setattr(answer, "LARGE_TABLE", 0)
    monkeypatch.setattr(answer, "SEARCHED", 20)
    some = compared(lm, ANSWERABLE, settings)
    assert every > 200 and sum(searched) <= 3 * (20 + 1)
    for name in ("pca", "phase1", "phase2"):
        assert some.headline[name]["cosine"] == whole.headline[name]["cosine"]
        assert some.headline[name]["token_match"] == pytest.approx(whole.headline[name]["token_match"], abs=30)


def test_places_that_are_searched_for_are_evenly_spaced_over_batches_of_any_size(
    lm: FrozenLM, settings: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from the beginning of each batch, the first tokens of prompts would be searched for too often."""
    monkeypatch.setattr(answer, "LARGE_TABLE", 0)
    monkeypatch.setattr(answer, "SEARCHED", 20)
    found = []
    for size in (1, 4):
        matched: list[int] = []
        monkeypatch.setattr(Quality, "match", lambda self, nearest, ids, matched=matched: matched.extend(ids.tolist()))
        sizes = settings.generation.model_copy(update={"batch_size": size})
        compared(lm, ANSWERABLE, settings.model_copy(update={"generation": sizes, "window": 2}))
        found.append(len(matched))
    assert 3 * 10 < found[0] == found[1] <= 3 * 20


@pytest.mark.parametrize("window", [1, 2])
def test_quality_is_told_apart_for_tokens_that_training_saw(lm: FrozenLM, settings: Params, window: int) -> None:
    """At window 1 each distinct token is reconstructed once, and counts as often as it occurs."""
    settings = settings.model_copy(update={"window": window})
    prompts = answerer_of(lm, settings).encode(ANSWERABLE)
    coded = [token for prompt in prompts for token, on in zip(prompt.ids, prompt.coded, strict=True) if on]
    known = sorted(set(coded))[::2]
    found = compared(lm, ANSWERABLE, settings, torch.tensor(known))
    share = sum(token not in known for token in coded) / len(coded)
    assert 0 < share < 1 and "unseen" not in found.details["uncompressed"]
    for system in ("pca", "phase1", "phase2"):
        seen, unseen = found.details[system]["seen"], found.details[system]["unseen"]
        assert unseen["share"] == pytest.approx(share)
        for name in ("cosine", "token_match"):
            mean = share * unseen[name] + (1 - share) * seen[name]
            assert mean == pytest.approx(found.headline[system][name])
            assert unseen[name] != seen[name]
    assert "seen" not in compared(lm, ANSWERABLE, settings).details["pca"]
