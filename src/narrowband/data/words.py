"""Words of a text in any script: for scores of answers, and for gates on records."""

import regex

_NO_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(rf"(?V1)[{_NO_SPACES}]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}_\u200c\u200d]--[{_NO_SPACES}]]+")
_CHARACTER = regex.compile(rf"[{_NO_SPACES}]")
_OTHER_SCRIPT = regex.compile(r"(?V1)[\p{L}--[\p{Latin}\p{Common}\p{Inherited}]]")


def words(text: str) -> list[str]:
    """Words and numbers in lower case, with their combining marks and joiners, without punctuation.

    Where a script puts no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese), each character is a word, as in the
    evaluation of MLQA (Lewis et al. 2020, arXiv:1910.07475).
    """
    return _WORD.findall(text.lower())


def is_unspaced(word: str) -> bool:
    """Whether a word of `words` is a character of a script that puts no spaces between words."""
    return bool(_CHARACTER.match(word))


def is_latin(text: str) -> bool:
    """Whether all letters of a text are Latin, or belong to no script, as the micro sign does."""
    return not _OTHER_SCRIPT.search(text)
