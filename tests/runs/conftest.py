"""The command line, in process and in an empty folder, and what the small runs of training have."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from small_command import command


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch):
    monkeypatch.setattr("vfunc.training.summary._plots", lambda *_: [])


__all__ = ["command"]
