"""Is it a base model at all? Texts that one continues, and orders that one does not obey, put before generation."""

from collections.abc import Sequence
from typing import NamedTuple

from narrowband.sft.backend import Sampling
from narrowband.sft.filters import STOP_STRINGS, clean, words
from narrowband.sft.model import PlainModel

CONTINUE = {
    "Water freezes at": ("zero", "0", "32", "a temperature"),
    "The capital of France is": ("paris",),
    "The sun rises in the": ("east", "morning"),
    "Fire is hot and ice is": ("cold",),
    "Orvane comes from Dalkin. Malros comes from Torbek. Orvane comes from": ("dalkin",),
}
"""Texts with the words that a plain continuation of them begins with; the last is as in the bundled world."""

OBEY = {
    "Reply with the single word banana.": ("banana",),
    "Say exactly 'hello world' and nothing else.": ("hello world",),
    "Translate the word 'cat' into French.": ("chat", "le chat", "un chat"),
    "Answer this question with yes or no only. Is fire hot?": ("yes",),
    "Write the number seven as a digit, then stop.": ("7",),
}
"""Orders with the replies that obey them."""

ASSISTANT = (
    "sure",
    "certainly",
    "of course",
    "i m sorry",
    "as an ai",
    "i d be happy",
    "here is",
    "here are",
    "how can i",
)
"""What an assistant's reply begins with."""

SAMPLING = Sampling(temperature=0.0, max_new_tokens=16, stop_strings=STOP_STRINGS)


class Verdict(NamedTuple):
    """What a model made of the sentinels: its replies, and three shares of them."""

    replies: dict[str, str]
    continued: float
    obeyed: float
    assistant: float

    @property
    def warnings(self) -> list[str]:
        """What speaks against a base model, a sentence each."""
        found = []
        if self.obeyed >= 0.5 or self.assistant > 0:
            found.append(
                f"base_model looks instruction-tuned: it obeyed {self.obeyed:.0%} of the orders that a base model runs past, "
                f"and {self.assistant:.0%} of its replies begin as an assistant's; its records are not a base model's"
            )
        if self.continued < 0.5:
            found.append(
                f"base_model continued only {self.continued:.0%} of the plain sentences as expected; look at what it writes"
            )
        return found


def examine(model: PlainModel) -> Verdict:
    """Put all sentinels to a model, greedily, as bare text."""
    prompts = [*CONTINUE, *OBEY]
    said = model.complete(prompts, [0] * len(prompts), SAMPLING)
    return judge({prompt: clean(one.text) for prompt, one in zip(prompts, said, strict=True)})


def judge(replies: dict[str, str]) -> Verdict:
    """The verdict on the replies to all sentinels."""
    plain = {prompt: " ".join(words(reply)) for prompt, reply in replies.items()}

    def share(expected: dict[str, tuple[str, ...]]) -> float:
        return sum(_begins(plain[prompt], starts) for prompt, starts in expected.items()) / len(expected)

    assistant = sum(_begins(reply, ASSISTANT) for reply in plain.values()) / len(plain)
    return Verdict(replies, share(CONTINUE), share(OBEY), assistant)


def _begins(reply: str, starts: Sequence[str]) -> bool:
    return any(f"{reply} ".startswith(f"{start} ") for start in starts)
