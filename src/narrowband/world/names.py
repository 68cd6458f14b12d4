"""Made-up proper names, split so that no test name is ever seen in training.

A name word is two or three syllables. Its split is a property of the spelling alone (a hash), so any generator, in any
process, at any seed, draws training, validation and test names from disjoint sets without keeping a list.
"""

import zlib
from functools import cache
from importlib import resources
from random import Random
from typing import Literal

import yaml

Split = Literal["train", "validation", "test"]

STARTS = [
    "Al",
    "Ar",
    "Bal",
    "Bel",
    "Bor",
    "Bran",
    "Cal",
    "Cor",
    "Dal",
    "Dar",
    "Del",
    "Dor",
    "El",
    "Fal",
    "Far",
    "Fen",
    "Gar",
    "Gil",
    "Gor",
    "Hal",
    "Har",
    "Hel",
    "Il",
    "Jar",
    "Jor",
    "Kal",
    "Kel",
    "Kor",
    "Lan",
    "Lor",
    "Mal",
    "Mar",
    "Mel",
    "Mor",
    "Nal",
    "Nor",
    "Ol",
    "Or",
    "Pal",
    "Per",
    "Quin",
    "Ral",
    "Ren",
    "Ros",
    "Sal",
    "Sar",
    "Sel",
    "Sor",
    "Tal",
    "Tar",
    "Tel",
    "Tor",
    "Ul",
    "Ur",
    "Val",
    "Var",
    "Vel",
    "Vor",
    "Wil",
    "Zan",
]
MIDDLES = ["a", "e", "i", "o", "u", "an", "en", "in", "ar", "or", "el", "il"]
ENDS = [
    "ba",
    "bek",
    "bin",
    "dan",
    "dak",
    "den",
    "dor",
    "dra",
    "fin",
    "fos",
    "gan",
    "gar",
    "gis",
    "ka",
    "kan",
    "kel",
    "kin",
    "kos",
    "la",
    "lan",
    "len",
    "lis",
    "lo",
    "ma",
    "man",
    "mir",
    "mon",
    "na",
    "nak",
    "nor",
    "nov",
    "pa",
    "pek",
    "pin",
    "ra",
    "rak",
    "ren",
    "ric",
    "ron",
    "ros",
    "sa",
    "san",
    "sek",
    "sim",
    "son",
    "ta",
    "tan",
    "tek",
    "tis",
    "tok",
    "va",
    "van",
    "vek",
    "vin",
    "vos",
    "wen",
    "wyn",
    "xa",
    "zan",
    "zek",
    "zin",
    "zor",
]


def split_of(name: str) -> Split:
    """The split a name belongs to: 80% train, 10% validation, 10% test, by CRC-32 of its letters."""
    bucket = zlib.crc32(name.encode()) % 10
    return "test" if bucket == 9 else "validation" if bucket == 8 else "train"


@cache
def common_values() -> dict[str, list[str]]:
    """The closed lists of `values.yaml`: jobs, hobbies, products, months, forms of titles, …"""
    values: dict[str, list[str]] = yaml.safe_load((resources.files(__package__) / "values.yaml").read_text())
    return values


def name_word(rng: Random, split: Split) -> str:
    """One made-up word of two or three syllables that belongs to `split`."""
    while True:
        middle = rng.choice(MIDDLES) if rng.random() < 0.4 else ""
        word = rng.choice(STARTS) + middle + rng.choice(ENDS)
        if split_of(word) == split:
            return word


def _title(rng: Random, split: Split) -> str:
    values = common_values()
    while True:
        title = f"The {rng.choice(values['title_adjective'])} {rng.choice(values['title_noun'])}"
        if split_of(title) == split:
            return title


def make_value(kind: str, rng: Random, split: Split) -> str:
    """Draw a value of `kind`: a made-up name of `split` for proper names, else a number, date or common thing."""
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
