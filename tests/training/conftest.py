"""The command line, in process and in an empty folder."""

from __future__ import annotations

from typing import Any

import pytest
from small_run import SMALL

from vfunc.training.command_line import run_guarded
from vfunc.training.resolve import flag
from vfunc.training.run import run


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command line, in process and in an empty folder; returns its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*argv: str, small_data: bool = True, **options: Any) -> int:
        words = list(argv)
        merged = (SMALL | options) if small_data else options
        for name, value in merged.items():
            if value is None:
                continue
            if isinstance(value, bool):
                words.append(flag(name) if value else flag(f"no_{name}"))
            else:
                words += [flag(name), str(value)]
        return run_guarded(run, words)

    return call
