"""Who may import whom: the core knows no modality, a modality knows no loop."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import vfunc

ROOT = Path(vfunc.__file__).parent
CORE = [
    "trees",
    "learner",
    "problem",
    "simulate",
    "pullback",
    "solvers",
    "estimators",
    "certification",
    "errors",
    "typecheck",
    "float64",
    "workload",
    "feedback",
    "precision",
    "split",
    "recomputation",
    "extras",
    "hub",
]
MODALITIES = ("language", "vision")
OUTER = ("training", "evaluation", "report")


def part(path):
    """The part of the package that a file belongs to: `vfunc/simulate/adam.py` -> simulate."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    """Absolute names of all modules that a file imports, lazily or not."""
    found = set()
    here = ("vfunc", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


def imported_parts(path):
    """The parts of vfunc that a file imports."""
    return {m.split(".")[1] for m in imports(path) if m.startswith("vfunc.")}


FILES = sorted(ROOT.rglob("*.py"))


def files_of(*parts):
    found = [path for path in FILES if part(path) in parts]
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in found]


def test_every_part_of_the_core_is_there():
    assert set(CORE) <= {part(path) for path in FILES}


@pytest.mark.parametrize("path", files_of(*CORE, "__init__"))
def test_the_core_imports_neither_modality_nor_loop(path):
    assert not imported_parts(path) & {*MODALITIES, *OUTER}


@pytest.mark.parametrize("path", files_of(*MODALITIES))
def test_modalities_do_not_import_the_loop(path):
    assert "training" not in imported_parts(path)


@pytest.mark.parametrize("path", files_of(*{part(path) for path in FILES}))
def test_nothing_imports_experiments_or_tests(path):
    roots = {m.split(".")[0] for m in imports(path)}
    assert not roots & {"experiments", "tests", "pytest", "hypothesis"}


def test_second_order_graphs_are_made_in_one_place():
    users = {
        path.relative_to(ROOT).as_posix()
        for path in FILES
        if "create_graph" in path.read_text(encoding="utf-8")
    }
    assert users == {"pullback/reverse.py"}
