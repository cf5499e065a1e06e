"""The command line as a fixture, in process and in an empty folder."""

from __future__ import annotations

from typing import Any

import pytest
from small_run import SMALL, words

from vfunc.training.run import run
from vfunc.training.run_command_line import run_guarded


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command line, in process and in an empty folder; returns its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*argv: str, small_data: bool = True, **options: Any) -> int:
        merged = (SMALL | options) if small_data else options
        return run_guarded(run, [*argv, *words(merged)])

    return call
