import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowband.data.words import is_latin, words, words_and_symbols


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Élan vital's 12+8", ["élan", "vital", "s", "12", "8"]),
        ("cafe\u0301", ["cafe\u0301"]),
        ("北京是首都。", ["北", "京", "是", "首", "都"]),
        ("1999年", ["1999", "年"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("می\u200cروم", ["می\u200cروم"]),  # one word, with a zero-width non-joiner in it
        ("กรุง", ["ก", "รุ", "ง"]),
        ("한국어는 어렵다", ["한국어는", "어렵다"]),
        ("...", []),
    ],
)
def test_words_keep_their_marks_and_scripts_without_spaces_are_cut_at_characters(
    text: str, expected: list[str]
) -> None:
    assert words(text) == expected


@given(st.text(st.characters(max_codepoint=0xFF)))
def test_words_of_latin_text_are_those_of_a_regular_expression(text: str) -> None:
    assert words(text) == re.findall(r"\w+", text.lower())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("北京🗽", ["北", "京", "🗽"]),
        ("5℃以下", ["5", "℃", "以", "下"]),
        ("م 🏔\ufe0f،", ["م", "🏔"]),
        ("👩\u200d💻", ["👩", "💻"]),
        ("5\ufe0f\u20e3", ["5\ufe0f\u20e3"]),
    ],
)
def test_scores_also_count_symbols(text: str, expected: list[str]) -> None:
    assert words_and_symbols(text) == expected


def test_one_letter_of_another_script_is_enough() -> None:
    assert is_latin("naïve café, 1999!") and not is_latin("β-carotene") and not is_latin("1999年")
    assert is_latin("5 \u00b5m")  # the micro sign belongs to no script
