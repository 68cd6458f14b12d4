"""Comparing metrics within tolerances, which `dvc metrics diff` does not do."""

import fnmatch
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import TypeAdapter, ValidationError

from narrowband.params import InputError, NonNegative, first_line
from narrowband.runtime.files import read_yaml


def read_tolerances(path: Path) -> dict[str, float]:
    """Allowed absolute differences by pattern of dotted names, in the order of the file.

    Raises:
        InputError: the file is missing, or is not such a mapping.
    """
    try:
        return TypeAdapter(dict[str, NonNegative]).validate_python(read_yaml(path))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise InputError(
            f"{path} does not map patterns of metric names to differences of 0 or more ({first_line(error)}); restore it from Git"
        ) from None


class Drift(NamedTuple):
    """One metric: its expected and found value, and the largest difference allowed."""

    name: str
    expected: float | None
    found: float | None
    difference: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether the metric is there on both sides and close enough."""
        return self.difference <= self.allowed


def compare_metrics(
    expected: Mapping[str, Any], found: Mapping[str, Any], tolerances: Mapping[str, float]
) -> list[Drift]:
    """Compare every number of both sides; a metric that only one side has differs infinitely.

    Items of a list are named by their index. Null and text are skipped; numbers that occur in a text are listed by themselves,
    too.

    `tolerances` maps patterns of dotted names to absolute differences; the first match counts.

    Raises:
        InputError: no pattern fits a metric.
    """
    left, right = dict(_numbers(expected)), dict(_numbers(found))
    drifts = []
    for name in sorted(left.keys() | right.keys()):
        allowed = next((value for pattern, value in tolerances.items() if fnmatch.fnmatch(name, pattern)), None)
        if allowed is None:
            raise InputError(
                f"no tolerance is given for metric {name}; add a pattern that fits it to the tolerance file"
            )
        a, b = left.get(name), right.get(name)
        difference = abs(a - b) if a is not None and b is not None else float("inf")
        drifts.append(Drift(name, a, b, difference, allowed))
    return drifts


def _numbers(content: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _numbers(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(content, list):
        yield from _numbers(dict(enumerate(content)), prefix)
    elif isinstance(content, int | float):
        yield prefix, float(content)
