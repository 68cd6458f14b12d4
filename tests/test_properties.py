"""What holds of every input: PCA, normalisation, records and files of questions."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from narrowband.codec.pca import PCA
from narrowband.data.squad import Answer, Example, read_squad, write_squad
from narrowband.evaluation.scoring import normalize, score
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.sampling import Sampling
from narrowband.sft.audit import audit
from narrowband.sft.backend import Continuation
from narrowband.sft.filters import Contamination, clean
from narrowband.sft.instructions import Instruction
from narrowband.sft.pool import CompletionPrompts, encode_exactly, read_pool
from narrowband.sft.records import Candidate, make_record

POOL = read_pool(Path(__file__).parent.parent / "pools" / "few_shot.yaml")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
WORDS = TEXT.filter(str.strip)
LINE = WORDS.filter(lambda text: "\n" not in text)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**32), st.floats(1e-3, 1e3), st.data())
def test_pca_gives_back_what_its_components_span(width: int, seed: int, scale: float, data: st.DataObject) -> None:
    components = data.draw(st.integers(1, width))
    generator = torch.Generator().manual_seed(seed)
    vectors = scale * (torch.randn(width + 8, width, generator=generator) + torch.randn(width, generator=generator))
    pca = PCA.fit(vectors, components)
    rebuilt = pca.decode(pca.encode(vectors))
    close = {"rtol": 1e-3, "atol": 1e-3 * scale}
    torch.testing.assert_close(pca.components @ pca.components.T, torch.eye(components), rtol=0, atol=1e-5)
    torch.testing.assert_close(pca.decode(pca.encode(rebuilt)), rebuilt, **close)
    torch.testing.assert_close(pca.encode(vectors).mean(0), torch.zeros(components), **close)
    assert 0 <= pca.explained_share <= 1 + 1e-5
    if components == width:
        torch.testing.assert_close(rebuilt, vectors, **close)


@given(st.text(), st.text())
def test_normalisation_is_done_at_once_and_scores_are_shares_that_do_not_see_it(prediction: str, gold: str) -> None:
    assert normalize(normalize(prediction)) == normalize(prediction)
    found = score(prediction, [gold])
    assert score(gold, [prediction]) == found and score(normalize(prediction), [gold]) == found
    assert 0 <= found.f1 <= 100 and found.em in (0, 100) and found.f1 >= found.em
    assert score(prediction, [gold, prediction]) == (100, 100)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WORDS, st.text(max_size=60), st.integers(0, 2**32), st.sampled_from(["few_shot", "completion"]))
def test_a_record_can_be_made_again_from_what_it_holds(
    tmp_path: Path, text: str, said: str, seed: int, style: str
) -> None:
    instruction = Instruction(text, "any", "pool")
    candidate = Candidate(3, instruction, CompletionPrompts(style, POOL).build(instruction.kind, text, seed), seed)
    record = make_record(candidate, Continuation(said, "eos"), None, Sampling(0.7, 48, ("\n\n",)), {"backend": "none"})
    assert record["response"] == clean(record["completion"]) and record["completion"] == said
    (tmp_path / "train.jsonl").write_text(json.dumps(record) + "\n")
    broken = audit(tmp_path / "train.jsonl", {example.id: example for example in POOL}, Contamination([]))
    assert broken["prompts"] == broken["formatted_texts"] == 0


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXT.filter(bool))
def test_the_tokens_of_a_prompt_stand_for_exactly_its_text(lm: FrozenLM, text: str) -> None:
    (ids,) = encode_exactly(lm.tokenizer, [text])
    assert lm.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(st.tuples(TEXT, LINE, TEXT, WORDS, st.integers(1, 2)), min_size=1, max_size=4))
def test_questions_are_read_as_they_were_written(tmp_path: Path, drawn: list[tuple[str, str, str, str, int]]) -> None:
    written = [
        Example(str(i), before + answer + after, question, (Answer(answer, len(before)),) * golds)
        for i, (before, answer, after, question, golds) in enumerate(drawn)
    ]
    write_squad(tmp_path / "qa.json", "any", written)
    assert sorted(read_squad(tmp_path / "qa.json"), key=lambda example: example.id) == written


@pytest.mark.parametrize("text", ["İstanbul", "a\u0301", "A. A. A.", "\u2028the"])
def test_normalisation_of_awkward_text(text: str) -> None:
    assert normalize(normalize(text)) == normalize(text)
