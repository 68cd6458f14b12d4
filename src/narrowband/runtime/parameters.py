"""Read `params.yaml`, and say in one sentence what is wrong with it."""

import difflib
import reprlib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from narrowband.params import PARAMS_FILE, InputError, Params, Section
from narrowband.runtime.files import parse_yaml

S = TypeVar("S", bound=Section)


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check `params.yaml`.

    Raises:
        InputError: the file is missing or not YAML, a name is unknown or missing, or a value is not allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run this in the folder that holds it") from None
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}); restore it from Git") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text ({error}); restore it from Git") from None
    return parse_params(text, path)


def parse_params(text: str, path: Path) -> Params:
    """Check the text of a parameter file; `path` is its name in error messages.

    Raises:
        InputError: it is not YAML, a name is unknown or missing, or a value is not allowed.
    """
    try:
        content = parse_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(
            f"{path} is not valid YAML ({' '.join(str(error).split())}); fix it or restore it from Git"
        ) from None
    return validated(Params, content, path)


def validated(section: type[S], content: Any, path: Path) -> S:
    """`content` of the YAML file at `path` as a section.

    Raises:
        InputError: it is no mapping, a name is unknown or missing, or a value is not allowed.
    """
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds {type(content).__name__}, not a mapping of parameters; fix it or restore it from Git"
        )
    try:
        return section.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {_sentence(error, section)}") from None


def _sentence(error: ValidationError, section: type[Section]) -> str:
    """The first problem of `error`, unknown names of `section` first, with the fix."""
    unknown = ("extra_forbidden", "invalid_key")
    problems = sorted(error.errors(), key=lambda problem: problem["type"] not in unknown)
    problem = problems[0]
    name = ".".join(map(str, problem["loc"]))
    name = name if name.isprintable() else repr(name)
    match problem["type"]:
        case "extra_forbidden" | "invalid_key":
            known = list(dotted_names(section))
            near = difflib.get_close_matches(name, known, n=1)
            fix = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            return f"unknown parameter {name}; {fix}"
        case "missing":
            return f"parameter {name} is missing; add it or restore it from Git"
    reason = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{name} is {shown(problem['input'])}, which {reason}; change it and run again"


def shown(value: object) -> str:
    """A short form of `value` for an error message, however large it is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer with more digits than Python converts to text
        return f"an {type(value).__name__} too large to show"


def dotted_names(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all parameters of `section`."""
    names = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += dotted_names(field.annotation, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names
