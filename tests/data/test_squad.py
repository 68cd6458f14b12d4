import codecs
import json
from pathlib import Path

import pytest

from narrowband.data.squad import read_squad
from narrowband.params import InputError

CONTEXT = "The café is red.\nIt is old."


def write(folder: Path, encoding: str = "utf-8", bom: bytes = b"", **changes: object) -> Path:
    """A data set of one question, in an encoding."""
    qa = {"id": "q7", "question": "What is red?", "answers": [{"text": "café", "answer_start": 4}], **changes}
    text = json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": [qa]}]}]}, ensure_ascii=False)
    path = folder / "qa.json"
    path.write_bytes(bom + text.encode(encoding))
    return path


def test_a_byte_order_mark_changes_nothing(tmp_path: Path) -> None:
    plain = read_squad(write(tmp_path))
    assert plain[0].context == CONTEXT
    assert read_squad(write(tmp_path, bom=codecs.BOM_UTF8)) == plain


@pytest.mark.parametrize(
    ("encoding", "bom", "sentence"),
    [
        ("latin-1", b"", "is not in UTF-8 (byte 0xe9 in line 1; it may be Latin-1 or Windows-1252); save it as UTF-8"),
        ("utf-16", b"", "is in UTF-16, not in UTF-8; save it as UTF-8"),
        ("utf-16-le", b"", "is in UTF-16, not in UTF-8"),
        ("utf-16-be", codecs.BOM_UTF16_BE, "is in UTF-16, not in UTF-8"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, encoding: str, bom: bytes, sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        read_squad(write(tmp_path, encoding, bom))
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"question": " \n"}, "question q7 is blank"),
        ({"answers": [{"text": "red.\nIt", "answer_start": 12}]}, r"answer 'red.\nIt' of question q7 has a line break"),
    ],
)
def test_what_no_prompt_can_hold_is_refused_with_its_id(tmp_path: Path, changes: dict, sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        read_squad(write(tmp_path, **changes))
    assert sentence in str(refusal.value)


def test_a_line_break_around_an_answer_is_no_line_break_in_it(tmp_path: Path) -> None:
    (example,) = read_squad(write(tmp_path, answers=[{"text": "red.\n", "answer_start": 12}]))
    assert example.golds == ["red.\n"]
