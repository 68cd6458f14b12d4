"""Completion documents: they make the bundled model a small *base* model that continues patterns.

A document holds several small tasks (math, facts, explanations, creative lines, sentence completions): as few-shot
examples, as questions and answers, as a numbered list, or as judgements of an answer. There are no role words.
"""

from functools import cache
from importlib import resources
from random import Random
from typing import Any, NamedTuple

import yaml

HEADER = "Here are examples of prompts and their completions:"


class Task(NamedTuple):
    """An instruction, its completion and its category (math, completion, fact, creative, explanation)."""

    instruction: str
    completion: str
    category: str


@cache
def _knowledge() -> dict[str, Any]:
    knowledge: dict[str, Any] = yaml.safe_load((resources.files(__package__) / "completions.yaml").read_text())
    return knowledge


def _arithmetic(rng: Random) -> tuple[str, str]:
    a, b = rng.randrange(1, 13), rng.randrange(1, 13)
    match rng.choice("++-*"):
        case "+":
            return f"{a}+{b}", str(a + b)
        case "-":
            return f"{max(a, b)}-{min(a, b)}", str(abs(a - b))
        case _:
            return f"{a}*{b}", str(a * b)


def make_task(rng: Random) -> Task:
    """Draw one small task with its completion."""
    knowledge = _knowledge()
    kind = rng.choice(
        ("math", "math", "fact", "fact", "explain", "explain", "creative", "complete", "capital", "opposite")
    )
    match kind:
        case "math":
            topic, completion = _arithmetic(rng)
        case "complete":
            topic, completion = rng.choice(knowledge["complete"])
        case "creative":
            topic, lines = rng.choice(list(knowledge["creative"].items()))
            completion = rng.choice(lines)
        case _:
            topic, completion = rng.choice(list(knowledge[kind].items()))
    category = {"explain": "explanation", "complete": "completion", "capital": "completion", "opposite": "completion"}
    return Task(rng.choice(knowledge["forms"][kind]).format(t=topic), completion, category.get(kind, kind))


def make_document(rng: Random) -> str:
    """Draw one document: few-shot examples, questions and answers, a list of tasks, judgements, or prose."""
    form = rng.choice(("few_shot", "few_shot", "few_shot", "qa", "list", "judge", "prose"))
    tasks = [make_task(rng) for _ in range(rng.randrange(4, 7))]
    match form:
        case "few_shot":
            header = [HEADER] if rng.random() < 0.7 else []
            return "\n\n".join(header + [f"{task.instruction}\n{task.completion}" for task in tasks]) + "\n\n"
        case "qa":
            return "\n\n".join(f"Q: {task.instruction}\nA: {task.completion}" for task in tasks) + "\n\n"
        case "list":
            return "\n".join(f"{i}. {task.instruction}" for i, task in enumerate(tasks, start=1)) + "\n"
        case "judge":
            return "\n\n".join(_judgement(rng, task) for task in tasks[:4]) + "\n\n"
        case _:
            return (
                " ".join(task.completion for task in tasks if task.category in ("fact", "explanation", "creative"))
                + "\n"
            )


def _judgement(rng: Random, task: Task) -> str:
    """A task with a right or wrong completion, and the judgement: A (good) or B (bad)."""
    good = rng.random() < 0.5
    completion = task.completion
    while not good and completion == task.completion:
        completion = make_task(rng).completion
    return f"Task: {task.instruction}\nAnswer: {completion}\nIs the answer good (A) or bad (B)? {'A' if good else 'B'}"
