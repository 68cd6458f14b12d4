from pathlib import Path

from sft_fakes import FakeBackend, make_model

from narrowband.lm.frozen import FrozenLM
from narrowband.sft.backend import Continuation
from narrowband.sft.sentinels import CONTINUE, OBEY, examine


def replies(obeys: bool, continues: bool, opening: str = "") -> dict[str, str]:
    said = {prompt: starts[-1] if continues else "\n\n" for prompt, starts in CONTINUE.items()}
    said |= {prompt: starts[0].upper() + "." if obeys else "1. Reply with" for prompt, starts in OBEY.items()}
    return {prompt: opening + text for prompt, text in said.items()}


def verdict(said: dict[str, str], lm: FrozenLM, folder: Path):
    return examine(
        make_model(FakeBackend(lm.tokenizer, lambda prompt, seed: Continuation(said[prompt], "eos")), folder)
    )


def test_a_model_that_continues_and_does_not_obey_passes(lm: FrozenLM, tmp_path: Path) -> None:
    found = verdict(replies(obeys=False, continues=True), lm, tmp_path)
    assert (found.continued, found.obeyed, found.assistant, found.warnings) == (1, 0, 0, [])
    assert found.replies["Water freezes at"] == "a temperature"


def test_an_obedient_model_is_flagged(lm: FrozenLM, tmp_path: Path) -> None:
    found = verdict(replies(obeys=True, continues=True), lm, tmp_path)
    assert found.obeyed == 1 and "looks instruction-tuned" in found.warnings[0]


def test_a_model_that_speaks_as_an_assistant_is_flagged(lm: FrozenLM, tmp_path: Path) -> None:
    found = verdict(replies(obeys=False, continues=True, opening="Sure! "), lm, tmp_path)
    assert found.obeyed == 0 and found.assistant == 1 and "looks instruction-tuned" in found.warnings[0]


def test_a_model_that_does_not_continue_is_noticed(lm: FrozenLM, tmp_path: Path) -> None:
    found = verdict(replies(obeys=False, continues=False), lm, tmp_path)
    assert found.continued == 0 and len(found.warnings) == 1 and "continued only 0%" in found.warnings[0]


def test_a_word_that_only_begins_alike_is_no_obedience(lm: FrozenLM, tmp_path: Path) -> None:
    said = replies(obeys=False, continues=True) | {"Write the number seven as a digit, then stop.": "77 men sat down"}
    assert verdict(said, lm, tmp_path).obeyed == 0
