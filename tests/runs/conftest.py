"""The command line, in process and in an empty folder, and what the small runs of training have."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from small_run import SMALL, words

from vfunc.training.run import run
from vfunc.training.run_command_line import run_guarded


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch):
    monkeypatch.setattr("vfunc.training.summary._plots", lambda *_: [])


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command line, in process and in an empty folder; returns its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*argv: str, small_data: bool = True, **options: Any) -> int:
        merged = (SMALL | options) if small_data else options
        return run_guarded(run, [*argv, *words(merged)])

    return call
