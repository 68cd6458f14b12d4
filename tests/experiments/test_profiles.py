import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from narrowband.cli import app
from narrowband.experiments.profiles import profile_names, read_profile, use_profile
from narrowband.params import InputError
from narrowband.runtime.parameters import load_params

ROOT = Path(__file__).parent.parent.parent
NAMES = ["bundled", "gemma-3-270m", "llama-3.1-8b", "qwen2.5-7b", "smollm2-135m", "smollm2-135m-instruct"]
RATES = {"gemma-3-270m": 16, "smollm2-135m-instruct": 16}


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The text of the committed parameters, which the current folder has a copy of, beside the profiles."""
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return Path("params.yaml").read_text()


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    found = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_sets_its_parameters_keeps_all_comments_and_can_be_undone(committed: str, name: str) -> None:
    use_profile(name)
    found = flat(load_params().model_dump())
    wanted = flat(read_profile(name).params)
    assert {parameter: found[parameter] for parameter in wanted} == wanted
    assert re.findall("#.*", Path("params.yaml").read_text()) == re.findall("#.*", committed)
    use_profile("bundled")
    assert Path("params.yaml").read_text() == committed


def test_every_profile_sets_the_same_parameters_and_compresses_four_times_or_more(committed: str) -> None:
    assert profile_names() == NAMES
    expected = flat(read_profile("bundled").params).keys()
    hidden = dict(zip(NAMES, (256, 640, 4096, 3584, 576, 576), strict=True))
    for name in NAMES:
        assert flat(read_profile(name).params).keys() == expected
        use_profile(name)
        params = load_params()
        assert params.vector_dim(hidden[name]) / params.compress_dim == RATES.get(name, 4)


def test_what_was_set_by_hand_stays(committed: str) -> None:
    Path("params.yaml").write_text(committed.replace("magnitude: none ", "magnitude: token"))
    use_profile("smollm2-135m")
    assert load_params().magnitude == "token"


def test_a_profile_that_is_not_there_or_sets_what_is_no_parameter_changes_nothing(committed: str) -> None:
    Path("profiles/typo.yaml").write_text("about: a typo\nparams: {compres_dim: 4}\n")
    for name, sentence in (
        ("gpt5", "there is no profile gpt5; choose bundled, "),
        ("typo", "profiles/typo.yaml: unknown parameter compres_dim; did you mean compress_dim?"),
    ):
        with pytest.raises(InputError, match=re.escape(sentence)):
            use_profile(name)
    assert Path("params.yaml").read_text() == committed
    Path("params.yaml").write_text(f"{committed}seed: 1\n")
    with pytest.raises(InputError, match=r"params.yaml can't be read as YAML .* found duplicate key"):
        use_profile("bundled")


def test_the_command_lists_and_uses_them(committed: str) -> None:
    listed = CliRunner().invoke(app, ["profile", "list"])
    assert listed.exit_code == 0 and all(name in listed.output for name in NAMES)
    used = CliRunner().invoke(app, ["profile", "use", "llama-3.1-8b"])
    assert used.exit_code == 0 and "Gated" in used.output
    assert load_params().base_model == "meta-llama/Llama-3.1-8B"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "profiles/mine.yaml holds NoneType, not a mapping"),
        (b"about: [", "profiles/mine.yaml can't be read as YAML"),
        (b"about: \xff", "profiles/mine.yaml can't be read as YAML"),
        (b"a: 1\na: 2", "profiles/mine.yaml can't be read as YAML"),
        (b"params: {window: 1}", "profiles/mine.yaml: parameter about is missing; add it"),
        (b"about: mine", "profiles/mine.yaml: parameter params is missing; add it"),
        (b"about: mine\nparams: 3", "profiles/mine.yaml: params is 3, which should be a valid dictionary"),
        (b"about: mine\nparam: {window: 1}", "profiles/mine.yaml: unknown parameter param; did you mean params?"),
    ],
)
def test_a_damaged_profile_is_named_and_stops_no_other(committed: str, content: bytes, sentence: str) -> None:
    Path("profiles/mine.yaml").write_bytes(content)
    listed = CliRunner().invoke(app, ["profile", "list"])
    assert isinstance(listed.exception, InputError) and sentence in str(listed.exception)
    assert all(name in listed.output for name in NAMES)
    use_profile("smollm2-135m")
    with pytest.raises(InputError, match=re.escape(sentence)):
        use_profile("mine")


def test_a_profile_sets_as_little_as_it_likes(committed: str) -> None:
    Path("profiles/mine.yaml").write_text("about: '[/] all'\nparams: {seed: 3}\n")
    listed = CliRunner().invoke(app, ["profile", "list"])
    assert listed.exit_code == 0 and "[/] all" in listed.output
    used = CliRunner().invoke(app, ["profile", "use", "mine"])
    assert used.exit_code == 0 and "params.yaml now has mine: [/] all" in used.output
    assert load_params().seed == 3
