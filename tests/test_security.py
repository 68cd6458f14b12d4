"""Nothing that is read can run code: no pickle, no other YAML loader, no code of a model's own."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN_MODULES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "np.load", "numpy.load", "eval", "exec", "yaml.load", "yaml.unsafe_load"}


@pytest.mark.parametrize("path", [*ROOT.glob("src/**/*.py"), *ROOT.glob("stages/*.py")], ids=lambda path: path.name)
def test_no_file_of_the_project_can_read_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names}.isdisjoint(FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in FORBIDDEN_MODULES
        elif isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in FORBIDDEN_CALLS
            trusted = [word.value for word in node.keywords if word.arg == "trust_remote_code"]
            assert [ast.unparse(value) for value in trusted] in ([], ["False"])
