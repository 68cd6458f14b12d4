"""What has been imported by the time parameters are looked at, and by the time the model is; nothing is timed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.startup import LATER, STAGES, make_modelless, started

SCRIPTS = Path(__file__).parent.parent / "stages"

SLOW = {
    *("accelerate", "datasets", "datasketch", "dvc", "dvclive", "huggingface_hub", "jaxtyping", "jinja2"),
    *("matplotlib", "numpy", "pandas", "pyarrow", "scipy", "scmrepo", "sklearn", "tokenizers", "torch", "transformers"),
}

STAGE = "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
COMMAND = "from narrowband.cli import main; main()"


def imported(code: str, arguments: list[str], folder: Path) -> tuple[set[str], str]:
    """Packages that a program has imported when it ends, and what it printed as an error."""
    tell = "import atexit, sys; del sys.argv[0]; atexit.register(lambda: print('\\n', *sys.modules)); "
    command = [sys.executable, "-c", tell + code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}, done.stderr


def test_every_stage_with_parameters_is_looked_at() -> None:
    assert {*STAGES, "pretrain_base"} == {path.stem for path in SCRIPTS.glob("*.py")}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_without_parameters_has_imported_nothing_slow(stage: str, tmp_path: Path) -> None:
    packages, error = imported(STAGE, [str(SCRIPTS / f"{stage}.py")], tmp_path)
    assert error.startswith("Error: params.yaml does not exist")
    assert packages >= {"narrowband", "pydantic"} and packages.isdisjoint(SLOW)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--help"], ""),
        (["spectrum"], "Error: params.yaml does not exist"),
        (["ask", "--context", "a", "--question", "b"], "Error: params.yaml does not exist"),
        (["profile", "list"], "Error: there is no profiles/NAME.yaml"),
        (["hypotheses"], "Error: docs/hypotheses.yaml can't be read"),
        (["verify"], "Error: metrics/tolerance.yaml does not"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_the_command_has_imported_nothing_slow(words: list[str], sentence: str, tmp_path: Path) -> None:
    packages, error = imported(COMMAND, ["narrowband", *words], tmp_path)
    assert error.startswith(sentence) and bool(error) == bool(sentence)
    assert packages >= {"narrowband", "pydantic"} and packages.isdisjoint(SLOW)


COMMON = {
    *("annotated_doc", "annotated_types", "constriction", "gguf", "ijson", "jaxtyping", "pydantic"),
    *("pydantic_core", "rich", "shellingham", "transformers", "typer", "typing_inspection"),
}
"""Small packages, and what of transformers reads GGUF files."""

MORE = {"generate_data": {"datasketch", "rapidfuzz", "scipy"}}  # datasketch imports scipy

LOOK = """
import json, os, runpy, sys
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
known = set(sys.modules)
for script in sys.argv[1:]:
    if os.fork() == 0:
        sys.argv = [script]
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit:
            pass
        more = set(sys.modules) - known
        print(json.dumps([script, sorted(more)]), file=sys.__stderr__, flush=True)
        os._exit(0)
    os.wait()
"""


def test_a_stage_imports_what_it_needs_beside_torch_and_the_models_class(tmp_path: Path) -> None:
    make_modelless(tmp_path)
    command = [sys.executable, "-c", LOOK, *(str(SCRIPTS / f"{stage}.py") for stage in STAGES)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert sum("base_model ./nothing" in line for line in lines) == len(STAGES)
    for script, modules in map(json.loads, (line for line in lines if line.startswith('["'))):
        packages = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - {"narrowband"}
        stage = Path(script).stem
        assert packages <= COMMON | MORE.get(stage, set()), stage
        assert len(modules) < 350, stage


def test_what_is_imported_where_it_is_needed_is_timed_with_its_stage() -> None:
    marked = re.compile(r"^ +from ([\w.]+) import .*# slow to import$", re.MULTILINE)
    files = [*SCRIPTS.glob("*.py"), *(SCRIPTS.parent / "src").rglob("*.py")]
    found = {module for file in files for module in marked.findall(file.read_text())}
    assert found == set().union(*LATER.values()) and LATER.keys() <= set(STAGES)


def test_a_start_imports_the_modules_of_its_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_modelless(tmp_path)
    started("train_phase1", tmp_path)
    monkeypatch.setitem(LATER, "train_phase1", ("no_such_module",))
    with pytest.raises(RuntimeError, match="No module named 'no_such_module'"):
        started("train_phase1", tmp_path)
