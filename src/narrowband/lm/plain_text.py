"""The one way in which text from outside becomes tokens."""

from collections.abc import Sequence

from transformers import BatchEncoding, PreTrainedTokenizerBase


def encode_plainly(
    tokenizer: PreTrainedTokenizerBase, text: str | Sequence[str], *, spans: bool = False
) -> BatchEncoding:
    """The tokens of a text, or of each of several; with `spans`, also the characters that each token stands for.

    No special token is added, and text that looks like one ("<|eos|>") is tokenised as plain text: whoever writes a context or
    a question can't end a prompt or begin another.
    """
    return tokenizer(
        text if isinstance(text, str) else list(text),
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=spans,
        verbose=False,  # no warning about length: prompts are cut to fit afterwards
    )
