"""`dvc.yaml` lists what each stage imports and reads, no less and no more; the checker itself is shown to fail."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from stage_reads import PACKAGE, ROOT, faults, modules, parameters

SKIPPED = {"pretrain_base", "check"}  # frozen, and always run
STAGES = {
    name: stage
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
    if name not in SKIPPED
}
CODE = [
    (name, entry) for name, stage in STAGES.items() for entry in stage["deps"] if entry.startswith(("src", "stages"))
]
PARAMS = [(name, entry) for name, stage in STAGES.items() for entry in stage["params"] if isinstance(entry, str)]


def script(name: str) -> Path:
    return ROOT / "stages" / f"{name}.py"


def less(name: str, kind: str, entry: object) -> dict[str, Any]:
    """The stage without one entry of what it depends on."""
    return {**STAGES[name], kind: [other for other in STAGES[name][kind] if other != entry]}


def more(name: str, kind: str, entry: str) -> dict[str, Any]:
    return {**STAGES[name], kind: [*STAGES[name][kind], entry]}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_lists_what_it_depends_on_and_no_more(name: str) -> None:
    assert faults(script(name), STAGES[name]) == []


@pytest.mark.parametrize(("name", "entry"), CODE)
def test_a_dependency_that_is_left_out_is_found(name: str, entry: str) -> None:
    found = faults(script(name), less(name, "deps", entry))
    assert found and all(fault.startswith(f"dependency {entry}") and fault.endswith("missing") for fault in found)


@pytest.mark.parametrize(("name", "entry"), PARAMS)
def test_a_parameter_that_is_left_out_is_found(name: str, entry: str) -> None:
    found = faults(script(name), less(name, "params", entry))
    assert found and all(fault.startswith(f"parameter {entry}") and fault.endswith("missing") for fault in found)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_versions_of_the_packages_it_runs_with(name: str) -> None:
    assert "requirements.lock" in STAGES[name]["deps"]


def test_a_stage_that_reads_every_parameter_lists_the_whole_file() -> None:
    assert "parameter seed is missing" in faults(script("diagnose"), less("diagnose", "params", {"params.yaml": None}))


@pytest.mark.parametrize(
    ("name", "kind", "entry", "fault"),
    [
        ("fit_pca", "deps", "src/narrowband/training", "dependency src/narrowband/training is superfluous"),
        ("evaluate", "deps", "src/narrowband/diagnosis", "dependency src/narrowband/diagnosis is superfluous"),
        ("train_phase2", "params", "generation", "parameter generation.backend is superfluous"),
        ("train_phase1", "params", "phase1.speed", "parameter phase1.speed is superfluous"),
        ("baselines", "params", "phase2.lr", "parameter phase2.lr is superfluous"),
    ],
)
def test_an_entry_too_many_is_found(name: str, kind: str, entry: str, fault: str) -> None:
    assert faults(script(name), more(name, kind, entry)) == [fault]


IMPORT = "from narrowband.runtime.parameters import load_params\nparams = load_params()\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print(params.seed, params.phase1.lr)", {"seed", "phase1.lr"}),
        ("phase = params.phase1\nprint(phase.lr, phase.steps)", {"phase1.lr", "phase1.steps"}),
        ("seed, needs = params.seed, params.needs\nprint(needs.disk)", {"seed", "needs.disk"}),
        ("needs = params.needs\nprint(needs)", {"needs.disk", "needs.gpu_memory"}),
        ("print(len(params.base_model.strip()))", {"base_model"}),
        ("print(params.data.sizes)", {"data.train", "data.validation", "data.test"}),
        ("print(params.vector_dim(3))", {"window", "compress_dim", "prompt.max_length"}),
        ("print(params.model_dump(include={'seed', 'window'}))", {"seed", "window"}),
        ("print(lambda: params.seed)", {"seed"}),
        (
            "def main():\n    from narrowband.codec.config import CodecConfig\n    CodecConfig.of(params)",
            {"base_model", "source", "compress_dim", "window", "magnitude", "latent_bits"}
            | {f"adapter.{name}" for name in ("kind", "hidden_mult", "detectors", "dropout")}
            | {f"latent_coding.{name}" for name in ("kind", "bits_per_token", "step")},
        ),
        ("def f(n, all_of_them):\n    return all_of_them.seed\nf(1, params)", {"seed"}),
        (
            "def f(n, *, p):\n    return p.seed + g(p)\ndef g(p):\n    return p.window\nf(1, p=params)",
            {"seed", "window"},
        ),
        (
            "class A:\n    def __init__(self, p):\n        self.p = p\n    def f(self):\n        return self.p.seed\nA(params)",
            {"seed"},
        ),
    ],
)
def test_parameters_are_found_however_they_are_read(code: str, expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(IMPORT + code + "\n")
    assert parameters(tmp_path / "stage.py") == expected


@pytest.mark.parametrize(
    "code", ["print(params)", "print(f'{params}')", "every = params\nprint(every)", "unknown(params)"]
)
def test_whoever_gets_all_parameters_may_read_each(code: str, tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(IMPORT + code + "\n")
    assert {"seed", "needs.disk", "data.critic.pair"} <= parameters(tmp_path / "stage.py")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import narrowband.world.names", {"world/__init__.py", "world/names.py"}),
        ("from narrowband.world import names", {"world/__init__.py", "world/names.py"}),
        ("def f():\n    from narrowband.world.names import Split", {"world/__init__.py", "world/names.py"}),
        ("from narrowband.runtime.rounding import rounded", {"runtime/__init__.py", "runtime/rounding.py"}),
        ("if TYPE_CHECKING:\n    from narrowband.lm.frozen import FrozenLM", set()),
        ("from pathlib import Path", set()),
        (
            "from narrowband.data.dataset_revision import dataset_revision",
            {
                "data/__init__.py",
                "data/dataset_revision.py",
                "runtime/__init__.py",
                "runtime/artifacts.py",
                "runtime/files.py",
            }
            | {"params.py"},
        ),
    ],
)
def test_modules_are_found_however_they_are_imported(code: str, expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(code + "\n")
    assert {str(file.relative_to(PACKAGE)) for file in modules(tmp_path / "stage.py")} == expected
