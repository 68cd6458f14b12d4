"""Words of a text in any script: for scores of answers, and for gates on records."""

import regex

_NO_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORDS = rf"(?V1)[{_NO_SPACES}]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}_\u200c\u200d]--[{_NO_SPACES}]]+"
_WORD, _WORD_OR_SYMBOL = regex.compile(_WORDS), regex.compile(rf"{_WORDS}|\p{{S}}")
_MARKS = regex.compile(r"[\p{M}\u200c\u200d]+")
_CHARACTER = regex.compile(rf"[{_NO_SPACES}]")
_OTHER_SCRIPT = regex.compile(
    r"(?V1)[[\p{L}\p{P}]--[\p{scx=Latin}\p{scx=Common}\p{scx=Inherited}]]|[\p{P}&&[\uff01-\uff65]]"
)
_PUNCTUATION = regex.compile(r"(?V1)[\p{P}$+<=>^`|~]")  # with the symbols that string.punctuation has, too


def words(text: str) -> list[str]:
    """Words and numbers in lower case, with their combining marks and joiners, without punctuation.

    Where a script puts no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese), each character is a word, as in the
    evaluation of MLQA (Lewis et al. 2020, arXiv:1910.07475).
    """
    return _WORD.findall(text.lower())


def words_and_symbols(text: str) -> list[str]:
    """`words`, and each symbol (emoji, signs of units and currencies), which MLQA keeps; without marks and joiners of symbols."""
    found = _WORD_OR_SYMBOL.findall(text.lower())
    return [word for word in found if not _MARKS.fullmatch(word)]


def is_unspaced(word: str) -> bool:
    """Whether a word of `words` is a character of a script that puts no spaces between words."""
    return bool(_CHARACTER.match(word))


def is_latin(text: str) -> bool:
    """Whether all letters and punctuation of a text are used with the Latin script, or with any, as the micro sign is."""
    return not _OTHER_SCRIPT.search(text)


def without_punctuation(text: str) -> str:
    """The text without punctuation of any script, as in the evaluation of MLQA: what stood on both sides is joined."""
    return _PUNCTUATION.sub("", text)
