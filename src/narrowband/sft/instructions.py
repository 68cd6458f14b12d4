"""Instructions from a pool of forms and topics, from training questions, and from lists that the base model continues."""

import re
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Annotated, NamedTuple

from pydantic import Field

from narrowband.data.prompts import qa_prompt
from narrowband.data.squad import Example
from narrowband.data.words import is_latin, words
from narrowband.sft.backend import Continuation
from narrowband.sft.filters import has_residue, is_printable
from narrowband.sft.pool import FORMS, FewShotExample, InstructionType, Text, read_entries

GENERATION_VERBS = {"write", "tell", "describe", "compose", "create", "invent", "make", "imagine", "draft"}
QUESTION_MARKS = ("?", "？", "؟")
FULL_STOPS = tuple(".!。！｡۔।॥။។\uff0e\u0589")
"""What ends an order, in any script."""

LISTED = 3
"""Number of examples that a list starts with."""

LONGEST = 40
"""Maximum number of words in an instruction that the model wrote."""


class Instruction(NamedTuple):
    """A text to continue; asked by the `pool`, by `reading` (a training question) or by the `model`."""

    text: str
    category: str
    asked_by: str

    @property
    def kind(self) -> InstructionType:
        """Its type, judged by its form: question, order to write, other order, or open line.

        Orders to write are known by English verbs; in another language they count as other orders.
        """
        if self.text.endswith(QUESTION_MARKS) or "\n" in self.text:
            return "qa"
        if self.text.split(maxsplit=1)[0].lower() in GENERATION_VERBS:
            return "generation"
        return "response" if self.text.endswith(FULL_STOPS) else "completion"


class _Entry(NamedTuple):
    category: Text
    forms: Annotated[list[Text], Field(min_length=1)]
    topics: Annotated[list[Text], Field(min_length=1)]


def read_instructions(path: Path) -> list[Instruction]:
    """Every form of the pool with every topic.

    Raises:
        InputError: the file is missing, or is not a list of category, forms, topics.
    """
    return [
        Instruction(form.replace("{topic}", topic), entry.category, "pool")
        for entry in read_entries(_Entry, path, "instruction")
        for form in entry.forms
        for topic in entry.topics
    ]


def reading(examples: Iterable[Example]) -> list[Instruction]:
    """Training questions on their passages, in the form of the question-answering prompt."""
    return [Instruction(qa_prompt(e.context, e.question), "reading", "reading") for e in examples]


def list_prompt(pool: Sequence[FewShotExample], seed: int) -> str:
    """A numbered list of instructions that ends with the number of the next one."""
    shown = Random(seed).sample(list(pool), k=LISTED)
    return "\n".join(f"{i}. {example.instruction}" for i, example in enumerate(shown, start=1)) + f"\n{LISTED + 1}."


def read_list(said: Continuation) -> list[str]:
    """The instructions that a model added to a numbered list, without a last line that the token limit may have cut."""
    found = []
    lines = f"{LISTED + 1}.{said.text}".split("\n")
    for number, line in enumerate(lines[:-1] if said.finish == "length" else lines, start=LISTED + 1):
        match = re.fullmatch(r"(\d{1,3})[.。、۔\uff0e][ \u3000]*(.*\S)\s*", line)
        if not match or int(match[1]) != number:
            break
        found.append(match[2])
    return found


def well_formed(text: str) -> bool:
    """Whether a listed text can be an instruction: two to forty words (see `words`), printable, no delimiters.

    Latin words are counted by spaces alone: "It's" is one.
    """
    count = len(text.split() if is_latin(text) else words(text))
    return 2 <= count <= LONGEST and bool(words(text)) and is_printable(text) and not has_residue(text)


class Supply:
    """Hands out instructions by type and by who asked, never the same text twice (case and spaces aside)."""

    def __init__(self) -> None:
        self._queues: dict[InstructionType, dict[str, deque[Instruction]]] = {kind: {} for kind in FORMS}
        self._handed_out: set[str] = set()
        self.taken: Counter[str] = Counter()  # by who asked
        self.duplicates = 0

    def add(self, instructions: Iterable[Instruction]) -> int:
        """Queue the instructions that were not handed out before; returns how many."""
        fresh = 0
        for instruction in instructions:
            if _key(instruction) in self._handed_out:
                self.duplicates += 1
            else:
                self._queues[instruction.kind].setdefault(instruction.asked_by, deque()).append(instruction)
                fresh += 1
        return fresh

    def take(self, kept: Counter[str], size: int) -> list[Instruction]:
        """Up to `size` instructions, each of the type with the fewest kept or taken so far; those who asked take turns."""
        counts = Counter(kept)
        taken: list[Instruction] = []
        while len(taken) < size and any(self._queues.values()):
            kind = min((kind for kind in FORMS if self._queues[kind]), key=lambda kind: counts[kind])
            instruction = self._next(kind)
            if _key(instruction) in self._handed_out:
                self.duplicates += 1
                continue
            self._handed_out.add(_key(instruction))
            taken.append(instruction)
            self.taken[instruction.asked_by] += 1
            counts[kind] += 1
        return taken

    def _next(self, kind: InstructionType) -> Instruction:
        """The next instruction of the asker whose turn it is."""
        queues = self._queues[kind]
        asker = next(iter(queues))
        queue = queues.pop(asker)
        instruction = queue.popleft()
        if queue:
            queues[asker] = queue
        return instruction


def _key(instruction: Instruction) -> str:
    return " ".join(instruction.text.lower().split())


def shuffled(instructions: Sequence[Instruction], seed: int) -> list[Instruction]:
    """Instructions in random order, with categories taking turns."""
    by_category: dict[str, list[Instruction]] = {}
    for instruction in Random(seed).sample(list(instructions), k=len(instructions)):
        by_category.setdefault(instruction.category, []).append(instruction)
    return [one for turn in zip_longest(*by_category.values()) for one in turn if one]
