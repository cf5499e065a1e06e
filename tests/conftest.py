"""Precision, threads and hypothesis for every test; runtime checks of all annotations."""

from __future__ import annotations

import jaxtyping

# Before anything imports vfunc: every annotated function of the package is checked in tests.
jaxtyping.install_import_hook("vfunc", "annotation_checker.check")

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "vfunc",
    derandomize=True,
    deadline=None,
    max_examples=3,
    # seeds do not shrink to anything simpler
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    database=None,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        # the precision fixture is the same for every example
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
hypothesis.settings.load_profile("vfunc")

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _default_precision():
    """No test leaks its default dtype into the next."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def float64():
    """Double precision, where mathematics is tested."""
    torch.set_default_dtype(torch.float64)
