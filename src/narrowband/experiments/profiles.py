"""Profiles: sets of parameters for one base model and data set, in `profiles/NAME.yaml`."""

from collections.abc import MutableMapping
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from narrowband.params import PARAMS_FILE, InputError, Params, load_params, parse_params
from narrowband.runtime.files import write_text

PROFILES = Path("profiles")


class Profile(NamedTuple):
    """What a profile is for, in a sentence, and the parameters that it sets."""

    about: str
    params: dict[str, Any]


def read_profiles() -> dict[str, Profile]:
    """Every profile by name.

    Raises:
        InputError: there are no profiles here.
    """
    files = sorted(PROFILES.glob("*.yaml"), key=lambda file: file.stem)
    if not files:
        raise InputError(f"there is no {PROFILES}/NAME.yaml here; run this in the folder that holds params.yaml")
    return {file.stem: Profile(**_yaml().load(file.read_text(encoding="utf-8"))) for file in files}


def use_profile(name: str) -> Profile:
    """Write the parameters of a profile to `params.yaml`; other parameters, comments and order stay as they are.

    Raises:
        InputError: there is no such profile, or `params.yaml` can't be used.
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
    profiles = read_profiles()
    if name not in profiles:
        raise InputError(f"there is no profile {name}; choose {', '.join(profiles)}")
    load_params()
    content = _yaml().load(PARAMS_FILE.read_text(encoding="utf-8"))
    _set(content, profiles[name].params)
    changed = StringIO()
    _yaml().dump(content, changed)
    return profiles[name], changed.getvalue()


def _set(section: MutableMapping[str, Any], values: MutableMapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, MutableMapping) and isinstance(section.get(name), MutableMapping):
            _set(section[name], value)
        else:
            section[name] = value


def _yaml() -> YAML:
    """A reader and writer that keeps everything unchanged byte for byte."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1000
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml
