"""Passages about people, towns, works, events and companies, with questions whose answers are spans of the passage.

Entities of one kind share their relations: a passage on two people gives both a birthplace. So the relation alone never
answers a question; the *name* has to be matched too. Every question has exactly one answer in its passage.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from importlib import resources
from random import Random
from typing import NamedTuple

import yaml

from narrowband.world.names import Split, make_value

_SLOT = re.compile(r"\[(\d+)\]")


class Relation(NamedTuple):
    """A property of a kind of entity (a person's birthplace), with ways to state it and to ask for it."""

    name: str
    value: str
    says: list[str]
    asks: list[str]


@dataclass(frozen=True)
class Question:
    """A question that names an entity and asks for a value; `passage[answer_start:][:len(answer)] == answer`."""

    text: str
    answer: str
    answer_start: int
    relation: str
    value_first: bool
    """Whether the passage says the value before it names the entity: "Mara Velt founded Tornby."."""


@dataclass(frozen=True)
class Passage:
    """A passage, the names and values in it, and every question that it answers in exactly one way."""

    text: str
    names: tuple[str, ...]
    questions: tuple[Question, ...]


class _Fact(NamedTuple):
    subject: int
    relation: Relation
    value: int


@cache
def relations() -> dict[str, list[Relation]]:
    """The relations of each kind of entity, from `relations.yaml`."""
    text = (resources.files(__package__) / "relations.yaml").read_text()
    return {
        kind: [Relation(f"{kind}.{name}", spec["value"], spec["says"], spec["asks"]) for name, spec in table.items()]
        for kind, table in yaml.safe_load(text).items()
    }


def make_passage(rng: Random, split: Split) -> Passage:
    """Draw a passage of three or four entities and eight or nine facts, all names from `split`."""
    strings: list[str] = []

    def new_string(kind: str) -> int:
        while (string := make_value(kind, rng, split)) in strings:
            pass
        strings.append(string)
        return len(strings) - 1

    groups: list[tuple[str, list[_Fact]]] = []
    n_kinds, n_entities, n_relations = rng.choice(((1, 3, 3), (1, 4, 2), (2, 2, 2)))
    for kind in rng.sample(list(relations()), k=n_kinds):
        shared = rng.sample(relations()[kind], k=n_relations)
        for _ in range(n_entities):
            subject = new_string(kind)
            groups.append((kind, [_Fact(subject, relation, new_string(relation.value)) for relation in shared]))

    template = _tell(rng, groups)
    text, starts = _fill(template, strings)
    return Passage(text, tuple(strings), _ask(groups, strings, starts, template))


def make_roster(rng: Random, split: Split, *, restate: bool) -> Passage:
    """Draw a passage that states one relation of three to seven entities, so that only the name identifies an answer.

    With `restate`, a "question" is the beginning of one of the statements, and its answer completes it.
    """
    kind = rng.choice(list(relations()))
    relation = rng.choice(relations()[kind])
    names: list[str] = []
    for value_kind in (kind, relation.value) * rng.randrange(3, 8):
        while (name := make_value(value_kind, rng, split)) in names:
            pass
        names.append(name)
    facts = [_Fact(i, relation, i + 1) for i in range(0, len(names), 2)]
    sentences = [rng.choice(relation.says).format(s=f"[{fact.subject}]", v=f"[{fact.value}]") for fact in facts]
    template = " ".join(sentences)
    text, starts = _fill(template, names)
    if not restate:
        return Passage(text, tuple(names), _ask([(kind, facts)], names, starts, template))
    form = rng.choice([form for form in relation.says if form.index("{s}") < form.index("{v}")]).partition(" {v}")[0]
    questions = [Question(form.format(s=names[s]), names[v], starts[v], relation.name, False) for s, _, v in facts]
    return Passage(text, tuple(names), tuple(questions))


def _tell(rng: Random, groups: list[tuple[str, list[_Fact]]]) -> str:
    """Sentences that state the facts, entity by entity or shuffled, with `[i]` as the placeholder of string i."""
    sentences: list[str] = []
    by_entity = rng.random() < 0.6
    for kind, facts in rng.sample(groups, k=len(groups)):
        pronoun = rng.choice(("She", "He")) if kind == "person" else "It"
        told: list[str] = []
        for fact in rng.sample(facts, k=len(facts)):
            name, value = f"[{fact.subject}]", f"[{fact.value}]"
            sentence = rng.choice(fact.relation.says).format(s=name, v=value)
            follows = by_entity and sentence.startswith(name) and bool(told) and told[-1].startswith((name, pronoun))
            if follows and rng.random() < 0.2 and " and " not in told[-1] + sentence:
                told[-1] = f"{told[-1][:-1]} and{sentence.removeprefix(name)}"
            elif follows and rng.random() < 0.25:
                told.append(pronoun + sentence.removeprefix(name))
            else:
                told.append(sentence)
        sentences += told
    if not by_entity:
        rng.shuffle(sentences)
    return " ".join(sentences)


def _fill(template: str, strings: list[str]) -> tuple[str, dict[int, int]]:
    """The text with each `[i]` replaced by string i, and the offset at which each string first occurs."""
    starts: dict[int, int] = {}
    text, end = "", 0
    for slot in _SLOT.finditer(template):
        text += template[end : slot.start()]
        starts.setdefault(int(slot[1]), len(text))
        text += strings[int(slot[1])]
        end = slot.end()
    return text + template[end:], starts


def _ask(
    groups: list[tuple[str, list[_Fact]]], strings: list[str], starts: dict[int, int], template: str
) -> tuple[Question, ...]:
    """Every question about the facts that has exactly one answer in this passage."""
    answers: dict[str, list[_Fact]] = defaultdict(list)
    for _, facts in groups:
        for fact in facts:
            for form in fact.relation.asks:
                answers[form.format(s=strings[fact.subject])].append(fact)
    return tuple(
        Question(text, strings[fact.value], starts[fact.value], fact.relation.name, _value_first(fact, template))
        for text, found in answers.items()
        if len(found) == 1
        for fact in found
    )


def _value_first(fact: _Fact, template: str) -> bool:
    rest_of_statement = template.partition(f"[{fact.value}]")[2].partition(".")[0]
    return f"[{fact.subject}]" in rest_of_statement
