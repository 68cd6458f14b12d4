"""A run whose latents are entropy-coded, through its stages and the two sides of the wire."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_project import BRIEF, contents, copied, finish_all, make_project, start
from tiny_project import change as change_params

TEXTS = ["--context=Mara Velt lives in Tornby. Ode Rusk lives in Kell.", "--question=Where does Ode Rusk live?"]

CUT = "; the context was cut to prompt.max_length 512"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, stopping_model: Path) -> Path:
    """A project that spends 24 bits a token, evaluated, with a question in `sent.nb`."""
    folder = tmp_path_factory.mktemp("wire") / "project"
    folder.mkdir()
    make_project(folder, stopping_model)
    coding = {"kind": "entropy", "bits_per_token": 24, "step": 0}
    change_params(folder, {**BRIEF, "latent_coding": coding, "data": {"sft_records": 0, "phase2_sft_share": 0.0}})
    finish_all(folder)
    said(folder, "encode", *TEXTS, "sent.nb")
    return folder


def said(folder: Path, *words: str, code: int = 0, threads: int = 1) -> str:
    process = start(folder, "narrowband", words, threads=threads)
    process.join()
    output = (folder / "output").read_text()
    assert process.exitcode == code and "Traceback" not in output, output
    return output.strip().splitlines()[-1]


def test_a_question_is_answered_from_its_bytes_and_threads_have_no_say(finished: Path) -> None:
    answers = set()
    for threads in (1, 2):
        line = said(finished, "encode", *TEXTS, f"{threads}.nb", threads=threads)
        size = (finished / f"{threads}.nb").stat().st_size
        assert line.startswith(f"{size} bytes for ") and CUT not in line
        answers.add(said(finished, "decode", f"{threads}.nb", threads=threads))
    assert (finished / "1.nb").read_bytes() == (finished / "2.nb").read_bytes()
    assert len(answers) == 1


def test_what_a_stream_lacks_of_a_long_context_is_said(finished: Path) -> None:
    line = said(finished, "encode", f"--context={200 * 'Ode Rusk lives in Kell. '}", TEXTS[1], "long.nb")
    assert line.endswith(f" bits a token{CUT}")


def test_the_rate_in_metrics_is_near_the_one_asked_for(finished: Path) -> None:
    """Forty training questions make poor tables."""
    headline = json.loads((finished / "metrics/evaluate.json").read_text())
    assert headline["bits_per_token"] == pytest.approx(24, rel=0.15)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda stream: stream[:-3], "was cut short, changed, or written by another codec"),
        (lambda stream: stream[:9] + bytes([stream[9] ^ 4]) + stream[10:], "was cut short, changed"),
        (lambda stream: stream + b"\1", "was cut short, changed"),
        (lambda stream: bytes([stream[0] ^ 1]) + stream[1:], "was written by another codec"),
        (lambda stream: b"", "the stream is empty"),
    ],
)
def test_a_damaged_stream_is_one_sentence(finished: Path, change: Callable[[bytes], bytes], sentence: str) -> None:
    said(finished, "encode", *TEXTS, "whole.nb")
    (finished / "damaged.nb").write_bytes(change((finished / "whole.nb").read_bytes()))
    refusal = said(finished, "decode", "damaged.nb", code=2)
    assert refusal.startswith("Error: ") and sentence in refusal


@pytest.mark.parametrize(
    ("words", "changes", "sentence"),
    [
        (("encode", *TEXTS, "new.nb"), {"latent_coding": {"kind": "fixed"}}, "is fixed, which writes no streams"),
        (("decode", "old.nb"), {"latent_coding": {"kind": "fixed"}}, "is fixed, which writes no streams"),
        (("encode", *TEXTS, "new.nb"), {"latent_coding": {"step": 1}}, "artifacts/pca was made with latent_coding"),
        (("encode", TEXTS[0], "--question= ", "new.nb"), {}, "--context and --question must hold text"),
        (("decode", "nowhere.nb"), {}, "nowhere.nb: No such file"),
        (("decode", "sent.nb"), {"prompt": {"anchor": "codec"}}, "by another codec or with other prompt settings"),
        (("decode", "sent.nb"), {"prompt": {"prefix": "text"}}, "by another codec or with other prompt settings"),
    ],
)
def test_what_can_not_be_sent_is_one_sentence_and_nothing_is_written(
    finished: Path, tmp_path: Path, words: tuple[str, ...], changes: dict[str, dict[str, object]], sentence: str
) -> None:
    folder = copied(finished, tmp_path / "project")
    (folder / "old.nb").write_bytes(b"x")
    change_params(folder, changes)
    before = contents(folder)
    assert sentence in said(folder, *words, code=2)
    assert contents(folder) == before
