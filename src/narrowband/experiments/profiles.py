"""Profiles: sets of parameters for one base model and data set, in `profiles/NAME.yaml`."""

from collections.abc import MutableMapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from narrowband.params import PARAMS_FILE, InputError, Params, Section
from narrowband.runtime.files import write_text
from narrowband.runtime.parameters import load_params, parse_params, validated

PROFILES = Path("profiles")


class Profile(Section):
    """What a profile is for, in a sentence, and the parameters that it sets."""

    about: str
    params: dict[str, Any]


def profile_names() -> list[str]:
    """The names of all profiles.

    Raises:
        InputError: there are none here.
    """
    names = sorted(file.stem for file in PROFILES.glob("*.yaml"))
    if not names:
        raise InputError(f"there is no {PROFILES}/NAME.yaml here; run this in the folder that holds params.yaml")
    return names


def read_profile(name: str) -> Profile:
    """The profile called `name`.

    Raises:
        InputError: there is none, or its file is damaged.
    """
    if name not in (names := profile_names()):
        raise InputError(f"there is no profile {name}; choose {', '.join(names)}")
    file = PROFILES / f"{name}.yaml"
    return validated(Profile, _load(file), file)


def use_profile(name: str) -> Profile:
    """Write the parameters of a profile to `params.yaml`; other parameters, comments and order stay as they are.

    Raises:
        InputError: there is no such profile, or it or `params.yaml` can't be used.
    """
    profile, text = _applied(name)
    parse_params(text, PROFILES / f"{name}.yaml")
    write_text(PARAMS_FILE, text)
    return profile


def profile_params(name: str) -> Params:
    """The parameters of `params.yaml` with those of a profile.

    Raises:
        InputError: as `use_profile`.
    """
    return parse_params(_applied(name)[1], PROFILES / f"{name}.yaml")


def _applied(name: str) -> tuple[Profile, str]:
    """A profile, and the text of `params.yaml` with its parameters."""
    profile = read_profile(name)
    load_params()
    content = _load(PARAMS_FILE)
    _set(content, profile.params)
    changed = StringIO()
    _yaml().dump(content, changed)
    return profile, changed.getvalue()


def _set(section: MutableMapping[str, Any], values: MutableMapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, MutableMapping) and isinstance(section.get(name), MutableMapping):
            _set(section[name], value)
        else:
            section[name] = value


def _load(file: Path) -> Any:
    try:
        return _yaml().load(file.read_text(encoding="utf-8"))
    except Exception as error:  # any exception, from a library that trusts the file
        raise InputError(f"{file} can't be read as YAML ({' '.join(str(error).split())}); fix it") from None


def _yaml() -> YAML:
    """A reader and writer that keeps everything unchanged byte for byte."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1000
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml
