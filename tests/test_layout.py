"""Where code lives: folders by purpose, imports that point one way, a light root, functions that fit a screen."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage_reads import PACKAGE, imports, source

ROOT_MODULES = 4
LONGEST = 45  # lines

ORDER = [
    {"params"},
    {"runtime"},
    {"lm", "world"},
    {"data"},
    {"codec"},
    {"reader"},
    {"evaluation"},
    {"training", "diagnosis"},
    {"report", "sft", "pretrain"},
    {"experiments"},
    {"cli"},
]
"""Folders, and modules at the root: each imports what stands before it."""

FILES = sorted(PACKAGE.rglob("*.py"))


def home(file: Path) -> str:
    """The folder of a file, or the name of a module at the root."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def edges() -> Iterator[tuple[str, str]]:
    """Importer and imported, by folder; the root's own `__init__.py`, which everything imports, left out."""
    for file in FILES:
        for imported in imports(file):
            pair = home(file), home(imported)
            if len(set(pair)) == 2 and "__init__" not in pair:
                yield pair


def test_the_root_holds_few_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= ROOT_MODULES


def place(name: str) -> float:
    """Where a folder or a module at the root stands in `ORDER`; other modules at the root stand just before `cli`."""
    return next((i for i, names in enumerate(ORDER) if name in names), len(ORDER) - 1.5)


def test_every_folder_has_its_place() -> None:
    folders = {home(file) for file in FILES if file.parent != PACKAGE}
    assert folders | {"params", "cli"} == set().union(*ORDER)


def test_imports_between_folders_point_one_way() -> None:
    assert {pair for pair in edges() if place(pair[1]) >= place(pair[0])} == set()


def test_an_import_is_seen_wherever_it_stands() -> None:
    assert {("data", "world"), ("cli", "lm"), ("lm", "runtime")} <= set(edges())  # the cli's is inside a function


@pytest.mark.parametrize("module", ["narrowband", "narrowband.params"])
def test_what_everything_imports_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_package_exports_what_a_user_of_the_library_needs() -> None:
    import narrowband

    assert {name: getattr(narrowband, name).__name__ for name in narrowband.__all__} == {
        name: name for name in ("PCA", "Codec", "FrozenLM")
    }
    with pytest.raises(AttributeError, match="Decoder"):
        _ = narrowband.Decoder


def test_no_function_is_longer_than_a_screen() -> None:
    lengths = {
        f"{file.relative_to(PACKAGE)}:{node.name}": node.end_lineno - node.lineno + 1
        for file in FILES
        for node in ast.walk(source(file).tree)
        if isinstance(node, ast.FunctionDef)
    }
    assert len(lengths) > 100
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_no_two_files_of_tests_have_the_same_name() -> None:
    """Pytest imports them by name, and stops at the second."""
    names = [file.name for file in Path(__file__).parent.rglob("*.py")]
    assert {name for name in names if names.count(name) > 1} <= {"conftest.py"}
