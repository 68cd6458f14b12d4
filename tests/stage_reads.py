"""What a stage's script depends on, found in its source: modules of the package, and parameters."""

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from narrowband.params import Params, Section
from narrowband.runtime.parameters import dotted_names

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src"
PACKAGE = SRC / "narrowband"
LEAVES = frozenset(dotted_names(Params))


class Source(NamedTuple):
    """A parsed file: its tree, the parent of each node, and where each imported name comes from."""

    tree: ast.Module
    parents: dict[ast.AST, ast.AST]
    names: dict[str, tuple[Path, str]]


@cache
def source(path: Path) -> Source:
    """Parse a file of the project."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and (file := file_of(node.module)):
            names |= {alias.asname or alias.name: (file, alias.name) for alias in node.names}
    return Source(tree, parents, names)


def file_of(module: str) -> Path | None:
    """The file of a module of the package; `None` for any other."""
    if module.partition(".")[0] != PACKAGE.name:
        return None
    path = SRC.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file if file.is_file() else None


# Modules


@cache
def modules(script: Path) -> frozenset[Path]:
    """Files of the package that `script` imports, at once or later on, directly or through others.

    The root's own `__init__.py` is left out: it exports names to users of the library, each when it is first asked for.
    """
    reached: set[Path] = set()
    waiting = [script]
    while waiting:
        new = {file for file in imports(waiting.pop()) if file not in reached}
        reached |= new
        waiting += new
    return frozenset(reached - {PACKAGE / "__init__.py"})


def imports(path: Path) -> Iterator[Path]:
    """Files of the package that importing `path` and calling its functions imports, their folders' `__init__.py` too."""
    for node in _outside_type_checking(source(path).tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            within = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from _files([node.module or "", *within])
        elif isinstance(node, ast.Import):
            yield from _files([alias.name for alias in node.names])


def _outside_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield child
            yield from _outside_type_checking(child)


def _files(names: Sequence[str]) -> Iterator[Path]:
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            if file := file_of(".".join(parts[:end])):
                yield file


# Parameters


@cache
def parameters(script: Path) -> frozenset[str]:
    """Dotted names of the parameters that `script` reads from its variable `params`, and functions that it passes it to."""
    return frozenset(_read(script, source(script).tree, {"params": ""}))


def leaves(name: str) -> set[str]:
    """The parameters that a dotted name stands for: its own, those of a section, or all of them (the empty name)."""
    return {leaf for leaf in LEAVES if not name or leaf == name or leaf.startswith(f"{name}.")}


def _read(path: Path, scope: ast.AST, roots: dict[str, str]) -> set[str]:
    """What is read in `scope`, a part of `path`, from the variables `roots`, each of which holds a section by its name."""
    found: set[str] = set()
    aliases: dict[str, str] = {}
    for node in ast.walk(scope):
        key = _key(node)
        if key not in roots or not isinstance(getattr(node, "ctx", None), ast.Load):
            continue
        name, end = _chain(path, node, roots[key])
        if isinstance(end, str):
            aliases[end] = name
        else:
            found |= end
    return found | _read(path, scope, aliases) if aliases else found


def _key(node: ast.AST) -> str | None:
    """How a variable is written: `params`, or `self.params`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return f"self.{node.attr}"
    return None


def _chain(path: Path, node: ast.AST, name: str) -> tuple[str, set[str] | str]:
    """Follow the attributes after `node`, which is the section `name`: to what is read, or to a variable it is put in."""
    parents = source(path).parents
    section = section_of(name)
    while isinstance(parent := parents[node], ast.Attribute):
        field = section.model_fields.get(parent.attr)
        if not field:
            return name, _member(section, parent.attr, name, parents[parent])
        name, node = f"{name}.{parent.attr}".lstrip("."), parent
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            return name, {name}
        section = field.annotation
    return name, _alias(parents, node) or _passed(path, node, name)


def section_of(name: str) -> type[Section]:
    """The class of a section by its dotted name."""
    found: Any = Params
    for part in filter(None, name.split(".")):
        found = found.model_fields[part].annotation
    return found


def _member(section: type[Section], attribute: str, name: str, parent: ast.AST) -> set[str]:
    """What a property or method of a section reads; one of pydantic's all of it, or what it is asked to `include`."""
    path = PACKAGE / "params.py"
    function = _function(path, section.__name__, attribute)
    if function:
        return _read(path, function, {"self": name})
    if isinstance(parent, ast.Call):
        for keyword in parent.keywords:
            if keyword.arg == "include":
                return {f"{name}.{member}".lstrip(".") for member in ast.literal_eval(keyword.value)}
    return leaves(name)


def _alias(parents: dict[ast.AST, ast.AST], node: ast.AST) -> str | None:
    """The variable that `node` is assigned to, alone or as a member of a tuple."""
    parent, place = parents[node], None
    if isinstance(parent, ast.Tuple):
        place, parent = parent.elts.index(node), parents[parent]  # type: ignore[arg-type]
    if not isinstance(parent, ast.Assign):
        return None
    (target,) = parent.targets
    if place is not None:
        target = target.elts[place] if isinstance(target, ast.Tuple) else target
    return _key(target)


def _passed(path: Path, node: ast.AST, name: str) -> set[str]:
    """What is read of a section that stands alone: all of it, unless it is `params` passed to a function of the project."""
    call = source(path).parents[node]
    keyword = None
    if isinstance(call, ast.keyword):
        keyword, call = call.arg, source(path).parents[call]
    callee = None if name or not isinstance(call, ast.Call) or node is call.func else _callee(path, call.func)
    if not callee:
        return leaves(name)
    file, owner, function = callee
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)][bool(owner) :]
    if keyword is None:
        place = call.args.index(node)
        if place >= len(names) or any(isinstance(argument, ast.Starred) for argument in call.args[:place]):
            return leaves(name)
        keyword = names[place]
    return _within(file, owner, function, keyword)


@cache
def _within(path: Path, owner: str | None, function: ast.FunctionDef, argument: str) -> frozenset[str]:
    """What `function` reads of `params`, its `argument`; of one kept by a constructor, what all methods read of it."""
    found = _read(path, function, {argument: ""})
    kept = [
        key
        for node in ast.walk(function)
        if _key(node) == argument and (key := _alias(source(path).parents, node)) and key.startswith("self.")
    ]
    others = (
        [node for node in ast.walk(_class(path, owner)) if isinstance(node, ast.FunctionDef)] if kept and owner else []
    )
    return frozenset(found.union(*(_read(path, other, dict.fromkeys(kept, "")) for other in others)))


def _callee(path: Path, called: ast.expr) -> tuple[Path, str | None, ast.FunctionDef] | None:
    """The function, method or constructor that `called` names: its file, its class if it has one, and itself."""
    owner = method = None
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
        owner, method = called.value.id, called.attr
    elif isinstance(called, ast.Name):
        owner = called.id
    if owner is None:
        return None
    file, name = source(path).names.get(owner, (path, owner))
    if method is None and (function := _function(file, None, name)):
        return file, None, function
    function = _function(file, name, method or "__init__")
    return (file, name, function) if function else None


def _function(path: Path, owner: str | None, name: str) -> ast.FunctionDef | None:
    scope = _class(path, owner) if owner else source(path).tree
    return next((node for node in scope.body if isinstance(node, ast.FunctionDef) and node.name == name), None)


def _class(path: Path, name: str) -> ast.ClassDef | ast.Module:
    tree = source(path).tree
    found = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return next(found, ast.Module([], []))


# What dvc.yaml says


def faults(script: Path, stage: dict[str, Any]) -> list[str]:
    """What a stage of `dvc.yaml` that runs `script` lists too little or too much, each as a sentence."""
    deps = [entry for entry in stage["deps"] if entry.startswith("src/")]
    reached = {str(file.relative_to(ROOT)) for file in modules(script)}
    covered = {file for file in reached for entry in deps if file == entry or file.startswith(f"{entry}/")}
    found = [f"dependency {file} is missing" for file in sorted(reached - covered)]
    found += [
        f"dependency {entry} is superfluous"
        for entry in deps
        if not any(file == entry or file.startswith(f"{entry}/") for file in reached)
    ]
    if f"stages/{script.name}" not in stage["deps"]:
        found.append(f"dependency stages/{script.name} is missing")
    entries = ["" if isinstance(entry, dict) else entry for entry in stage.get("params", [])]
    read = set().union(*map(leaves, parameters(script)))
    listed = set().union(*map(leaves, entries))
    unknown = {entry for entry in entries if not leaves(entry)}
    found += [f"parameter {name} is missing" for name in sorted(read - listed)]
    return found + [f"parameter {name} is superfluous" for name in sorted(listed - read | unknown)]
