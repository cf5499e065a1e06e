"""Wrong shapes and types are refused on the public surface, unless checks are off."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import cases
import jaxtyping
import pytest
import torch

import vfunc

# Refusals come from jaxtyping, from beartype, or from both, as one another's cause.
REFUSALS = (jaxtyping.TypeCheckError,)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", list(vfunc.ESTIMATORS))
@pytest.mark.parametrize("wrong", ["problem", "theta", "phi"])
def test_estimators_refuse_wrong_arguments(name, wrong):
    made = cases.situation("mlp", 0)
    arguments = {
        "problem": (SimpleNamespace(), made.theta, made.phi),
        "theta": (made.problem, list(made.theta.values()), made.phi),
        "phi": (made.problem, made.theta, {"r": torch.zeros(2, dtype=torch.int64)}),
    }
    with pytest.raises(vfunc.UserError, match=f"^{wrong}"):
        vfunc.make_estimator(name)(*arguments[wrong])


def test_public_functions_refuse_wrong_arguments():
    good = {"x": torch.ones(2)}
    with pytest.raises(REFUSALS):
        vfunc.conjugate_gradient(lambda x: x, good, max_iterations="3")
    with pytest.raises(REFUSALS):
        vfunc.trees.dot(good, {"x": 1.0})


def test_a_loss_that_is_not_a_scalar_is_refused():
    made = cases.situation("mlp", 0)
    problem = replace(made.problem, feedback_loss=lambda theta: torch.ones(2))
    with pytest.raises((*REFUSALS, vfunc.UserError)):
        vfunc.feedback_gradient(problem, made.theta)


def test_inner_functions_are_checked_in_tests():
    """The import hook of the tests covers what `@typed` does not."""
    with pytest.raises(REFUSALS):
        vfunc.trees.scale({"x": torch.ones(2, dtype=torch.int64)}, 2.0)


PROBE = """
import jaxtyping, torch, vfunc
from vfunc.typecheck import ENABLED
try:
    vfunc.conjugate_gradient(lambda x: x, {"x": torch.ones(2)}, tolerance=True)
    print(ENABLED, "accepted")
except jaxtyping.TypeCheckError:
    print(ENABLED, "refused")
"""


@pytest.mark.parametrize(("setting", "said"), [("0", "False accepted"), ("1", "True refused")])
def test_the_environment_switches_checks_off(setting, said):
    environment = os.environ | {"VFUNC_TYPECHECK": setting}
    ran = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == said
