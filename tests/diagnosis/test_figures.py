"""Faults planted in the codec and in the calls of a tiny random model; each must get its verdict and no other.

The right answers are the model's own to uncompressed prompts, so F1 means something though it knows nothing.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import torch
import yaml
from making import answerer_of, codec_of
from torch import Tensor

import narrowband.data.prompts
from narrowband.codec.codec import Codec
from narrowband.codec.config import CodecConfig
from narrowband.codec.pca import PCA
from narrowband.codec.token_windows import embedded
from narrowband.codec.windows import cut
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import encode_prompt
from narrowband.data.splits import world_example
from narrowband.data.squad import Answer, Example
from narrowband.diagnosis.conditions import Case, magnitude, norm_status
from narrowband.diagnosis.figures import Diagnosis, Figures, diagnose, diversity, gains
from narrowband.diagnosis.reconstructions import effective_rank, overlap, pairwise_cosine
from narrowband.diagnosis.replay import Rescaled
from narrowband.diagnosis.table import BUNDLED_MODEL, TABLE, Row
from narrowband.diagnosis.verdicts import Verdict, judge, verdicts
from narrowband.evaluation.answer import QuestionSet
from narrowband.evaluation.scoring import Scored, agreement, score_all
from narrowband.experiments.profiles import profile_params
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.stop import Reply
from narrowband.params import Params, Stop

QUESTIONS = 40


@pytest.fixture(scope="module")
def small(tiny_model: Path) -> Params:
    content = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    content |= {"base_model": str(tiny_model), "window": 2, "compress_dim": 64}
    content["adapter"]["detectors"] = 128
    content["generation"] |= {"max_new_tokens": 6, "batch_size": 20}
    content["phase1"]["lr"], content["phase2"]["steps"] = 0.002, 300
    content["loss"]["phase2"]["reconstruction"] = 0.1
    return Params.model_validate(content)


@pytest.fixture(scope="module")
def examples(lm: FrozenLM, small: Params) -> list[Example]:
    """Questions whose gold answer is what the model says."""
    found = []
    for i in range(3 * QUESTIONS):
        example = world_example(0, "test", i)
        prompt = encode_prompt(lm.tokenizer, example.context, example.question, small.prompt)
        said = lm.generate_from_ids(prompt.ids, small.generation.max_new_tokens).text
        if said:
            found.append(replace(example, answers=(Answer(said, 0),)))
    assert len(found) >= QUESTIONS
    return found[:QUESTIONS]


@pytest.fixture(scope="module")
def pca(lm: FrozenLM, small: Params) -> Callable[[int], PCA]:
    """The PCA of training prompts with so many components."""
    questions = [world_example(0, "train", i) for i in range(60)]
    prompts = [encode_prompt(lm.tokenizer, e.context, e.question, small.prompt) for e in questions]
    vectors = torch.cat([cut(embeddings, coded, small.window) for embeddings, coded in embedded(lm, prompts, 20)])
    return lambda compress_dim: PCA.fit(vectors, compress_dim)


class Faulty(Codec):
    """A codec whose output passes through `fault`."""

    fault: Callable[[Tensor, Tensor], Tensor]

    def forward(self, embeddings: Tensor, coded: Tensor) -> Tensor:
        rebuilt = super().forward(embeddings, coded)
        return torch.where(coded[..., None], self.fault(rebuilt, coded), rebuilt)


def run(lm: FrozenLM, codec: Codec, examples: list[Example], params: Params) -> tuple[Diagnosis, list[Verdict]]:
    """Evaluate and diagnose as the stages do."""
    systems = {"uncompressed": None, "phase1": codec}
    predictions = {
        name: answerer_of(lm, params).answer(system, examples).predictions for name, system in systems.items()
    }
    diagnosis = diagnose(answerer_of(lm, params), systems, QuestionSet(examples, params.seed), predictions)
    return diagnosis, verdicts(diagnosis, params, lm.hidden_size)["phase1"]


def faulty(lm: FrozenLM, pca: PCA, params: Params, fault: Callable[[Tensor, Tensor], Tensor]) -> Codec:
    codec = Faulty(pca, CodecConfig.of(params), pca_only=True)
    codec.fault = fault
    return codec


def names(found: list[Verdict]) -> list[str]:
    return [verdict.name for verdict in found]


@pytest.fixture(scope="module")
def sound(lm: FrozenLM, pca: Callable[[int], PCA], small: Params) -> Codec:
    return codec_of(pca(small.compress_dim), small, pca_only=True)


@pytest.fixture(scope="module")
def healthy(lm: FrozenLM, sound: Codec, examples: list[Example], small: Params) -> tuple[Diagnosis, list[Verdict]]:
    return run(lm, sound, examples, small)


def test_a_healthy_run_is_called_healthy(healthy: tuple[Diagnosis, list[Verdict]]) -> None:
    diagnosis, found = healthy
    assert diagnosis.uncompressed_f1 == 100
    assert names(found) == ["healthy"] and found[0].command == "dvc exp run -S compress_dim=32"
    assert diagnosis.call_path.with_bos == 1 > diagnosis.call_path.without_bos


def shuffle(rebuilt: Tensor, coded: Tensor) -> Tensor:
    return rebuilt.roll(1, 0)


def constant(rebuilt: Tensor, coded: Tensor) -> Tensor:
    return torch.full_like(rebuilt, 0.3)  # as long as an original


@pytest.mark.parametrize(
    ("fault", "verdict", "setting"),
    [
        (lambda rebuilt, coded: 30 * rebuilt, "magnitude", "magnitude=token"),
        (lambda rebuilt, coded: rebuilt / 30, "magnitude", "magnitude=token"),
        (shuffle, "rows", "generation.batch_size=1"),
        (constant, "mode_collapse", "phase1.lr=0.0005"),
    ],
)
def test_a_fault_of_the_codec_gets_its_verdict(
    lm: FrozenLM,
    pca: Callable[[int], PCA],
    examples: list[Example],
    small: Params,
    fault: Callable[[Tensor, Tensor], Tensor],
    verdict: str,
    setting: str,
) -> None:
    _, found = run(lm, faulty(lm, pca(small.compress_dim), small, fault), examples, small)
    assert names(found) == [verdict]
    assert found[0].confidence == "high" and found[0].command == f"dvc exp run -S {setting}"


def test_a_missing_attention_mask(
    lm: FrozenLM, sound: Codec, examples: list[Example], small: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = FrozenLM.generate
    monkeypatch.setattr(
        FrozenLM, "generate", lambda self, embeddings, mask, *rest: generate(self, embeddings, mask | True, *rest)
    )
    _, found = run(lm, sound, examples, small)
    assert names(found) == ["attention_mask"]
    assert found[0].command == "dvc exp run -S generation.batch_size=1"


def test_a_missing_attention_mask_where_questions_share_contexts(
    lm: FrozenLM, sound: Codec, examples: list[Example], small: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such questions are answered in other batches, with other padding, than by length alone."""
    several = [
        replace(one, id=f"{one.id}-{i}", question=f"{'so ' * 7 * i}{one.question}")
        for one in examples
        for i in range(3)
    ]
    generate = FrozenLM.generate
    monkeypatch.setattr(
        FrozenLM, "generate", lambda self, embeddings, mask, *rest: generate(self, embeddings, mask | True, *rest)
    )
    diagnosis, _ = run(lm, sound, several, small)
    assert diagnosis.call_path.without_mask == 1 > diagnosis.call_path.with_bos


def test_bos_dropped_by_the_parameters(lm: FrozenLM, sound: Codec, examples: list[Example], small: Params) -> None:
    dropped = small.model_copy(update={"prompt": small.prompt.model_copy(update={"bos": "none"})})
    _, found = run(lm, sound, examples, dropped)
    assert names(found) == ["bos"]
    assert found[0].command == "dvc exp run -S prompt.bos=text"


def test_bos_dropped_by_the_code(
    lm: FrozenLM, sound: Codec, examples: list[Example], small: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    def headless(*arguments: object) -> EncodedPrompt:
        prompt = encode_prompt(*arguments)
        return EncodedPrompt(prompt.ids[1:], prompt.coded[1:], prompt.truncated)

    systems = {"uncompressed": None, "phase1": sound}
    with monkeypatch.context() as patched:
        patched.setattr(narrowband.data.prompts, "encode_prompt", headless)
        predictions = {name: answerer_of(lm, small).answer(s, examples).predictions for name, s in systems.items()}
    diagnosis = diagnose(answerer_of(lm, small), systems, QuestionSet(examples, small.seed), predictions)
    assert names(verdicts(diagnosis, small, lm.hidden_size)["phase1"]) == ["bos"]


def test_answers_cut_as_if_the_prompt_came_back_with_them(
    lm: FrozenLM, sound: Codec, examples: list[Example], small: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original run's decoding: `generate(inputs_embeds=...)` returns new tokens only, and they were cut off."""
    replies = FrozenLM.replies
    monkeypatch.setattr(FrozenLM, "replies", lambda self, tokens, stop: replies(self, tokens[:, 100:], stop))
    systems = {"uncompressed": None, "phase1": sound}
    predictions = {
        name: answerer_of(lm, small).answer(system, examples).predictions for name, system in systems.items()
    }
    monkeypatch.undo()
    found = verdicts(
        diagnose(answerer_of(lm, small), systems, QuestionSet(examples, small.seed), predictions), small, lm.hidden_size
    )["phase1"]
    assert names(found) == ["decoding"]


def test_one_answer_for_every_question(
    lm: FrozenLM, sound: Codec, examples: list[Example], small: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Phase 2's collapse: tokens are what they were, and the model says the same to all of them."""
    systems = {"uncompressed": None, "phase1": sound, "phase2": sound}
    predictions = {
        name: answerer_of(lm, small).answer(systems[name], examples).predictions for name in ("uncompressed", "phase1")
    }
    replies = FrozenLM.replies
    monkeypatch.setattr(
        FrozenLM, "replies", lambda self, tokens, stop: replies(self, tokens[:1].expand(len(tokens), -1), stop)
    )
    one = small.model_copy(update={"generation": small.generation.model_copy(update={"batch_size": QUESTIONS})})
    predictions["phase2"] = answerer_of(lm, one).answer(sound, examples).predictions
    monkeypatch.undo()
    found = verdicts(
        diagnose(answerer_of(lm, small), systems, QuestionSet(examples, small.seed), predictions), small, lm.hidden_size
    )["phase2"]
    assert names(found) == ["mode_collapse"]
    assert found[0].command == "dvc exp run -S loss.phase2.reconstruction=1.0"


def test_a_model_whose_answers_are_mostly_empty(
    lm: FrozenLM, pca: Callable[[int], PCA], examples: list[Example], small: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the scale nor the tokens are blamed, though both are bad."""
    replies = FrozenLM.replies

    def mostly_empty(self: FrozenLM, tokens: Tensor, stop: Stop) -> list[Reply]:
        return [reply if len(reply.text) % 5 > 2 else Reply("", True) for reply in replies(self, tokens, stop)]

    monkeypatch.setattr(FrozenLM, "replies", mostly_empty)
    diagnosis, found = run(lm, faulty(lm, pca(4), small, lambda rebuilt, coded: rebuilt / 30), examples, small)
    assert 0.5 < diagnosis.form.empty < 0.9
    assert names(found) == ["format"]
    assert found[0].command == "dvc exp run -S generation.max_new_tokens=12"


def test_a_model_that_goes_on_after_the_right_answer(
    lm: FrozenLM, sound: Codec, examples: list[Example], small: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = FrozenLM.replies

    def talkative(self: FrozenLM, tokens: Tensor, stop: Stop) -> list[Reply]:
        return [Reply(f"{reply.text}. {'And more of it. ' * 9}", True) for reply in replies(self, tokens, stop)]

    monkeypatch.setattr(FrozenLM, "replies", talkative)
    diagnosis, found = run(lm, sound, examples, small)
    assert names(found) == ["format"] and diagnosis.form.buried > 0.9
    assert found[0].command == "dvc exp run -S generation.stop=sentence"


def test_a_model_that_answers_nothing_right(lm: FrozenLM, sound: Codec, examples: list[Example], small: Params) -> None:
    strange = [replace(example, answers=(Answer("unheard-of", 0),)) for example in examples]
    _, found = run(lm, sound, strange, small)
    assert names(found) == ["base_model"]


@pytest.mark.parametrize(("compress_dim", "verdict"), [(50, "objective"), (20, "tokens_drift"), (4, "tokens_collapse")])
def test_less_and_less_is_sent(
    lm: FrozenLM, pca: Callable[[int], PCA], examples: list[Example], small: Params, compress_dim: int, verdict: str
) -> None:
    params = small.model_copy(update={"compress_dim": compress_dim, "magnitude": "token"})
    _, found = run(lm, codec_of(pca(compress_dim), params, pca_only=True), examples, params)
    assert names(found) == [verdict]
    less = min(2 * compress_dim, 64)
    assert (
        found[0].command == f"dvc exp run -S {'phase2.steps=600' if verdict == 'objective' else f'compress_dim={less}'}"
    )


def test_tokens_that_training_never_saw_are_lost(
    lm: FrozenLM, pca: Callable[[int], PCA], examples: list[Example], small: Params
) -> None:
    """An adapter that knows the tokens of its training alone, as far as the verdicts can tell from outside."""
    prompts = answerer_of(lm, small).encode(examples)
    coded = Counter(token for prompt in prompts for token, on in zip(prompt.ids, prompt.coded, strict=True) if on)
    unseen = torch.tensor([token for token, _ in coded.most_common()][3:12])
    seen = torch.tensor([token for token in coded if token not in unseen])
    original = lm.vocabulary[unseen]

    def forget(rebuilt: Tensor, coded: Tensor) -> Tensor:
        nearest = torch.cdist(rebuilt, original)  # [batch, seq, unseen]
        return torch.where(nearest.amin(-1, keepdim=True) < 0.1, lm.vocabulary[seen[0]], rebuilt)

    systems = {"uncompressed": None, "phase1": faulty(lm, pca(64), small, forget)}
    predictions = {name: answerer_of(lm, small).answer(s, examples).predictions for name, s in systems.items()}
    diagnosis = diagnose(answerer_of(lm, small), systems, QuestionSet(examples, small.seed, seen), predictions)
    rebuilt = diagnosis.systems["phase1"].reconstruction
    assert rebuilt.unseen_share > 0.1 and rebuilt.unseen_match < 10 and rebuilt.seen_match > 99
    found = verdicts(diagnosis, small, lm.hidden_size)["phase1"]
    assert names(found) == ["unseen_tokens"] and found[0].command == "dvc exp run -S phase1.vocabulary_share=0.5"


def test_a_task_learned_from_gold_answers(lm: FrozenLM, sound: Codec, examples: list[Example], small: Params) -> None:
    """Phase 2 gives the gold answers, half of which are not the model's own."""
    taught = [replace(e, answers=(Answer(f"unheard-of {i}", 0),)) if i % 2 else e for i, e in enumerate(examples)]
    systems = {"uncompressed": None, "phase1": sound, "phase2": sound}
    predictions = {name: answerer_of(lm, small).answer(s, taught).predictions for name, s in systems.items()}
    predictions["phase2"] = {e.id: e.golds[0] for e in taught}
    diagnosis = diagnose(answerer_of(lm, small), systems, QuestionSet(taught, small.seed), predictions)
    found = verdicts(diagnosis, small, lm.hidden_size)
    assert names(found["phase1"]) == ["healthy"] and names(found["phase2"]) == ["learned_task"]
    assert diagnosis.systems["phase2"].f1 == 100 and diagnosis.systems["phase2"].agreement < 60


ANSWERS = {
    "Gemma at full rate": {"bbb": 85, "bbx": 13, "xxb": 35, "xxx": 110, "xxy": 57},
    "Gemma at 4x": {
        **{"bbb": 54, "bbx": 8, "bxb": 8, "bxx": 28, "xbb": 10, "xbx": 1, "xby": 1, "xxb": 14, "xxx": 65, "xxy": 26},
        **{"xyb": 8, "xyx": 16, "xyy": 61},
    },
    "bundled at 4x": {"bbb": 975, "bxx": 3, "bbx": 1, "xbb": 4, "xxx": 16, "xxy": 1},
    "bundled at 64x": {"bbb": 230, "bbx": 20, "bxb": 220, "bxx": 509, "xxx": 13, "xxb": 8},
    "too few questions": {"bbb": 60, "bxb": 5, "xxx": 32, "xxy": 3},
}
"""Questions by the answers of the uncompressed model, of Phase 1 and of Phase 2: right (b) or wrong in one of two ways."""


def told(kind: str, usual: Figures) -> Figures:
    """`usual` with the figures of Phase 2 that follow from `ANSWERS`."""
    triples = [triple for triple, count in ANSWERS[kind].items() for _ in range(count)]
    asked = [Example(str(i), f"Context {i}.", "Which?", (Answer("b", 0),)) for i in range(len(triples))]
    predictions = {
        name: {e.id: triple[place] for e, triple in zip(asked, triples, strict=True)}
        for place, name in enumerate(("uncompressed", "phase1", "phase2"))
    }
    return replace(
        usual,
        f1=Scored(predictions["phase2"], score_all(predictions["phase2"], asked)).f1,
        agreement=agreement(predictions["phase2"], predictions["uncompressed"]),
        gains=gains(predictions, QuestionSet(asked, 0)),
    )


@pytest.fixture
def told_case(healthy: tuple[Diagnosis, list[Verdict]], small: Params) -> Callable[[str, float], Case]:
    """Phase 2 with the figures of `ANSWERS`, beside an uncompressed model of so much F1."""
    diagnosis, _ = healthy
    usual = diagnosis.systems["phase1"]
    params = changed(small, {"compress_dim": 16})
    return lambda kind, f1: Case("phase2", told(kind, usual), diagnosis.call_path, f1, diagnosis.form, params, 64)


@pytest.mark.parametrize(
    ("kind", "uncompressed", "confidence", "evidence"),
    [
        (
            *("Gemma at full rate", 98 / 3, "high"),
            r"F1 is 40\.0 against 32\.7 uncompressed, agreement 65\.0; F1 is at least \d\.\d above the uncompressed model's",
        ),
        (
            *("Gemma at 4x", 98 / 3, "medium"),
            r"F1 is 31\.3 against 32\.7 uncompressed, agreement 48\.0; F1 is at least \d\.\d above Phase 1's, and agreement is not",
        ),
    ],
)
def test_f1_that_rises_without_agreement_is_a_learned_task(
    told_case: Callable[[str, float], Case], kind: str, uncompressed: float, confidence: str, evidence: str
) -> None:
    """The figures of docs/real-models.json, to a question."""
    case = told_case(kind, uncompressed)
    (found,) = judge(case)
    assert (found.name, found.confidence) == ("learned_task", confidence)
    assert re.fullmatch(evidence, found.evidence)
    assert found.command == "dvc exp run -S compress_dim=64"
    (found,) = judge(case._replace(params=changed(case.params, {"compress_dim": 64})))
    assert found.command == "dvc exp run -S loss.phase2.cross_entropy=0"
    (found,) = judge(case._replace(params=changed(case.params, {"loss.phase2.cross_entropy": 0.0})))
    assert found.name == "healthy" and "agreement" in found.evidence


@pytest.mark.parametrize(
    ("kind", "uncompressed", "verdict"),
    [("bundled at 4x", 97.9, "healthy"), ("bundled at 64x", 97.9, "objective"), ("too few questions", 65.0, "healthy")],
)
def test_answers_that_come_back_are_no_learned_task(
    told_case: Callable[[str, float], Case], kind: str, uncompressed: float, verdict: str
) -> None:
    assert names(judge(told_case(kind, uncompressed))) == [verdict]


def test_a_learned_task_hides_no_fault(told_case: Callable[[str, float], Case]) -> None:
    case = told_case("Gemma at full rate", 98 / 3)
    drifted = replace(case.figures, f1=20.0, reconstruction=replace(case.figures.reconstruction, token_match=80.0))
    assert names(judge(case._replace(figures=drifted))) == ["tokens_drift", "learned_task"]
    shuffled = replace(
        case.figures, reconstruction=replace(case.figures.reconstruction, own_overlap=0.0, other_overlap=1.0)
    )
    assert names(judge(case._replace(figures=shuffled))) == ["rows"]


def changed(params: Params, settings: dict[str, object]) -> Params:
    """`params` as `dvc exp run -S` would make them."""
    content = params.model_dump()
    for name, value in settings.items():
        *path, last = name.split(".")
        reduce(getitem, path, content)[last] = value
    return Params.model_validate(content)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
@pytest.mark.parametrize("system", ["pca", "phase1", "phase2"])
def test_every_row_proposes_something_new_that_is_allowed(
    healthy: tuple[Diagnosis, list[Verdict]], small: Params, row: Row, system: str
) -> None:
    diagnosis, _ = healthy
    case = Case(system, diagnosis.systems["phase1"], diagnosis.call_path, 100.0, diagnosis.form, small, 64)
    proposed = [changed(small, settings) for settings in row.remedies(case)]
    assert any(other != small for other in proposed)
    assert all(other.vector_dim(256 if other.base_model == "models/base" else 32) for other in proposed)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "smollm2-135m", "bundled"])
def test_the_bundled_model_is_proposed_with_a_codec_that_fits_it(name: str) -> None:
    assert changed(profile_params(name), BUNDLED_MODEL).vector_dim(256) == 4096


def test_empty_answers_are_never_the_commonest() -> None:
    """As where half of the questions are unanswerable (SQuAD v2.0)."""
    asked = [Example(str(i), "C.", "Q?", (Answer(f"gold {i}", 0),) if i % 2 else ()) for i in range(100)]
    found = diversity(["London"] * 90 + [""] * 10, asked)
    assert (found.commonest_prediction, found.commonest_gold, found.empty_predictions) == (0.9, 0.01, 0.1)
    assert diversity([""], [replace(asked[0], id="a")]).commonest_gold == 0


def test_norms_are_restored_as_far_as_the_same_questions_are_answered_without_a_codec(
    healthy: tuple[Diagnosis, list[Verdict]], small: Params
) -> None:
    diagnosis, _ = healthy
    figures = diagnosis.systems["phase1"]

    def confidence(own: float) -> str:
        trial = Rescaled(f1_before=0, f1_after=46, f1_uncompressed=own, gain_low=20)
        lossy = replace(figures, f1=2, rescaled=trial)
        return magnitude(Case("phase1", lossy, diagnosis.call_path, 50.0, diagnosis.form, small, 64)).confidence

    assert (confidence(80), confidence(50)) == ("medium", "high")


@pytest.mark.parametrize(("ratio", "status"), [(0.79, "TOO LOW"), (0.8, "OK"), (1.2, "OK"), (1.21, "TOO HIGH")])
def test_norm_status_has_the_bounds_of_the_original_diagnosis(ratio: float, status: str) -> None:
    assert norm_status(ratio) == status


def test_degeneracy_of_known_tokens() -> None:
    assert pairwise_cosine(torch.ones(5, 3)) == pytest.approx(1)
    assert pairwise_cosine(torch.tensor([[1.0, 0], [2.0, 0], [0, 1]])) == pytest.approx(1 / 3)
    assert effective_rank(torch.ones(5, 3)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.eye(4)) == pytest.approx(4)


def test_overlap_by_hand() -> None:
    coded = torch.tensor([[True, True, True], [False, True, True]])
    own, other = overlap(torch.tensor([7, 7, 9, 5, 6]), torch.tensor([7, 5, 9, 6, 7]), coded)
    torch.testing.assert_close(own, torch.tensor([2 / 3, 1 / 2]))
    torch.testing.assert_close(other, torch.tensor([1 / 3, 1 / 2]))
