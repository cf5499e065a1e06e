"""Who may import whom: a package imports only those above it in `ORDER`, lazily or not.

Packages in one line do not import each other: language knows no vision, and the reverse. The public
names in `vfunc/__init__.py` come from the core.
"""

from __future__ import annotations

import ast
import functools
from collections import Counter
from pathlib import Path

import pytest

import vfunc

ROOT = Path(vfunc.__file__).parent
CORE = [
    ["errors"],
    ["extras", "typecheck", "printable"],
    ["storage"],
    ["hub", "float64", "forward_pass", "designer_file"],
    ["trees"],
    ["processes"],
    ["learner"],
    ["sharding"],
    ["split", "simulate"],
    ["problem"],
    ["workload", "solvers", "pullback"],
    ["estimators"],
    ["modality", "feedback", "certification"],
]
ORDER = [
    *CORE[:3],
    ["config"],
    ["arms"],
    ["conditions"],
    *CORE[3:],
    ["evaluation"],
    ["report"],
    ["language", "vision"],
    ["training"],
    ["integrations"],
    ["studies"],
    ["console"],
    ["__main__"],
]
OFFENDERS: set[tuple[str, str]] = set()
"""Imports against the order that are still to go."""

MOST_FILES = 20


def part(path):
    """The package or single file of vfunc that a path belongs to: `simulate/adam.py` -> simulate."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@functools.cache
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


FILES = sorted(ROOT.rglob("*.py"))
PARTS = {part(path) for path in FILES} - {"__init__"}


def imported_parts(path):
    """The packages and single files of vfunc that a file imports, its own aside."""
    names = {m.split(".")[1] for m in imports(path) if m.startswith("vfunc.")}
    return names & PARTS - {part(path)}


def files_of(name):
    return [path for path in FILES if part(path) == name]


RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def test_every_package_has_its_place():
    assert set(RANK) >= PARTS
    assert max(Counter(name for names in ORDER for name in names).values()) == 1


@pytest.mark.parametrize("name", sorted(PARTS))
def test_a_package_imports_only_those_above_it(name):
    against = {
        (path.relative_to(ROOT).as_posix(), other)
        for path in files_of(name)
        for other in imported_parts(path)
        if RANK[other] >= RANK[name] and (name, other) not in OFFENDERS
    }
    assert against == set()


def test_the_offenders_are_real():
    made = {(part(path), other) for path in FILES for other in imported_parts(path)}
    assert made >= OFFENDERS


def test_the_public_names_are_of_the_core():
    core = {name for names in CORE for name in names}
    assert imported_parts(ROOT / "__init__.py") <= core


def test_nothing_imports_experiments_or_tests():
    foreign = {"experiments", "tests", "pytest", "hypothesis"}
    users = [path for path in FILES if {m.split(".")[0] for m in imports(path)} & foreign]
    assert users == []


def test_no_folder_is_too_full():
    folders = Counter(path.parent for path in FILES)
    assert {str(f.relative_to(ROOT)): n for f, n in folders.items() if n > MOST_FILES} == {}


def test_second_order_graphs_are_made_in_one_place():
    users = {
        path.relative_to(ROOT).as_posix()
        for path in FILES
        if "create_graph" in path.read_text(encoding="utf-8")
    }
    # certification's goes through a declared loss of the outputs, and the look at custom functions
    # through one of these alone: not through the learner
    looks = {"certification/forms.py", "pullback/custom_functions.py"}
    measured = {"studies/peers/plain_loops.py", "studies/peers/other_packages.py"}  # beside it
    assert users == {"pullback/reverse.py", *looks, *measured}
