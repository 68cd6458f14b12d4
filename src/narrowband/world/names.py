"""Made-up proper names, split so that no test name is ever seen in training.

A name is a word of two or three syllables. A hash of its spelling decides its split, so training, validation and test
names are disjoint for every seed and process, and no list has to be kept.
"""

import zlib
from functools import cache
from importlib import resources
from random import Random
from typing import Literal

import yaml

Split = Literal["train", "validation", "test"]


def split_of(name: str) -> Split:
    """The split of a name, by CRC-32 of its UTF-8 bytes: 80% train, 10% validation, 10% test."""
    bucket = zlib.crc32(name.encode()) % 10
    return "test" if bucket == 9 else "validation" if bucket == 8 else "train"


@cache
def common_values() -> dict[str, list[str]]:
    """The lists of `values.yaml`: syllables, jobs, hobbies, products, months, forms of titles, …"""
    values: dict[str, list[str]] = yaml.safe_load((resources.files(__package__) / "values.yaml").read_text())
    return values


@cache
def held_out_words() -> tuple[str, ...]:
    """Common words and first syllables of names that training questions never hold: one in 20, by CRC-32 of UTF-8 bytes."""
    values = common_values()
    common = {
        word
        for kind, entries in values.items()
        if not kind.startswith("name_")
        for entry in entries
        for word in entry.split()
        if len(word) > 3
    }
    return tuple(sorted(word for word in common.union(values["name_start"]) if zlib.crc32(word.encode()) % 20 == 0))


def is_held_out(text: str) -> bool:
    """Whether a word of `text` begins with one of `held_out_words`."""
    return any(word.startswith(held_out_words()) for word in text.split())


def name_word(rng: Random, split: Split) -> str:
    """Draw a made-up word of two or three syllables from `split`."""
    values = common_values()
    while True:
        middle = rng.choice(values["name_middle"]) if rng.random() < 0.4 else ""
        word = rng.choice(values["name_start"]) + middle + rng.choice(values["name_end"])
        if split_of(word) == split:
            return word


def _title(rng: Random, split: Split) -> str:
    values = common_values()
    while True:
        title = f"The {rng.choice(values['title_adjective'])} {rng.choice(values['title_noun'])}"
        if split_of(title) == split:
            return title


def make_value(kind: str, rng: Random, split: Split) -> str:
    """Draw a value of `kind`. Proper names come from `split`; numbers, dates and common things do not depend on it."""
    values = common_values()
    match kind:
        case "person":
            return f"{name_word(rng, split)} {name_word(rng, split)}"
        case "town":
            return name_word(rng, split)
        case "region":
            return f"{rng.choice(values['region_form'])} {name_word(rng, split)}"
        case "river":
            return f"{name_word(rng, split)} River"
        case "company":
            return f"{name_word(rng, split)} {rng.choice(values['company_form'])}"
        case "event":
            return f"{name_word(rng, split)} {rng.choice(values['event_form'])}"
        case "work":
            if rng.random() < 0.5:
                return _title(rng, split)
            return f"The {rng.choice(values['title_noun'])} of {name_word(rng, split)}"
        case "year":
            return str(rng.randrange(1600, 2025))
        case "date":
            return f"{rng.randrange(1, 29)} {rng.choice(values['month'])}"
        case "count":
            return str(rng.randrange(120, 9900, 10))
        case _:
            return rng.choice(values[kind])
