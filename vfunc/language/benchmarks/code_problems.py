"""What is executed to judge a program of MBPP or HumanEval, and which of its names tests use."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vfunc.language.code_execution.programs import Program


def mbpp_program(record: Mapping[str, Any], source: str) -> Program:
    """A program and the tests of its problem of MBPP (Austin et al. 2021, arXiv 2108.07732).

    Args:
        record: the problem: `test_list`; perhaps `test_imports`, `test_setup_code` and `code`,
            whose imports the tests lean on, and whose own names are the program's.
        source: the program.
    """
    reference = _parsed(str(record.get("code") or ""))
    before = [*map(str, record.get("test_imports") or ())]
    before += [ast.unparse(line) for line in _imports(reference)]
    setup = str(record.get("test_setup_code") or "")
    tests = [*([setup] if setup.strip() else []), *map(str, record["test_list"])]
    known = _bound(_parsed("\n".join([*before, setup])))
    own = _defined(reference)
    used = dict.fromkeys(name for text in tests for name in _used(_parsed(text)))
    # a module that nobody imports is the library's own, never what a program calls so
    before += [f"import {n}" for n in used if n in sys.stdlib_module_names - own - known]
    known |= sys.stdlib_module_names - own
    asked = [n for n in used if n in own or (n not in known and not hasattr(builtins, n))]
    return Program(source, tuple(tests), tuple(asked), tuple(before))


def humaneval_program(record: Mapping[str, Any], source: str) -> Program:
    """A program and the tests of its problem of HumanEval (Chen et al. 2021, arXiv 2107.03374).

    Args:
        record: the problem: `prompt`, whose helpers the tests may use, `test`, `entry_point`.
        source: the program, the prompt included.
    """
    entry = str(record["entry_point"])
    tests = (str(record["test"]), f"check({entry})")
    return Program(source, tests, (entry,), (str(record["prompt"]),))


def _parsed(text: str) -> Sequence[ast.stmt]:
    try:
        return ast.parse(text).body
    except (SyntaxError, ValueError):  # what is executed says so
        return ()


def _imports(lines: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    return (line for line in lines if isinstance(line, ast.Import | ast.ImportFrom))


def _defined(lines: Sequence[ast.stmt]) -> set[str]:
    """Names that a program defines itself."""
    return _bound([line for line in lines if not isinstance(line, ast.Import | ast.ImportFrom)])


def _bound(lines: Sequence[ast.stmt]) -> set[str]:
    """Names that lines bind at their outermost level."""
    found: set[str] = set()
    for line in lines:
        if isinstance(line, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            found.add(line.name)
        elif isinstance(line, ast.Import | ast.ImportFrom):
            found |= {(a.asname or a.name).partition(".")[0] for a in line.names}
        else:
            names = (n for n in ast.walk(line) if isinstance(n, ast.Name))
            found |= {n.id for n in names if isinstance(n.ctx, ast.Store)}
    return found


def _used(lines: Sequence[ast.stmt]) -> Iterator[str]:
    for line in lines:
        for node in ast.walk(line):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                yield node.id
