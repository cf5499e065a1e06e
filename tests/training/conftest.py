"""The command line, in process and in an empty folder; runs on a shallow learner."""

from __future__ import annotations

import pytest
from small_command import command
from small_run import deep, shallow


@pytest.fixture(autouse=True)
def _shallow_unless_deep(request):
    if "deep" not in request.fixturenames:
        request.getfixturevalue("shallow")


__all__ = ["command", "deep", "shallow"]
