"""A learner under torch.compile: its estimates, and what certification finds in it."""

from __future__ import annotations

import cases
import measures
import pytest
import torch
from torch import nn

import vfunc
from vfunc.pullback.missing import MissingDerivativeError

pytestmark = pytest.mark.usefixtures("float64")


class Cubed(nn.Linear):
    """Of its custom function torch.compile makes another class at each call."""

    def forward(self, x):
        return cases.Cube.apply(super().forward(x))


class Stopped(nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        return y * y.detach()


def asked(kind, *, compiled=True):
    torch.manual_seed(0)
    module = kind(3, 2)
    f = vfunc.functional(torch.compile(module, backend="eager") if compiled else module)
    x = measures.normal(measures.generator(0), 4, 3)
    problem = vfunc.ValueProblem(
        lambda phi, x: {"x": x * phi["s"]},
        lambda theta, task: (f(theta, task["x"]) - 1).square().mean(),
        lambda theta: f(theta, x + 1).sin().mean(),
        (x,),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
    )
    return problem, f.theta, {"s": torch.ones(3)}


def test_a_custom_function_that_is_made_anew_is_not_differentiated_twice_unseen():
    expected = vfunc.FirstOrder(engine="reverse")(*asked(Cubed, compiled=False)).grad
    problem, theta, phi = asked(Cubed)
    for _ in range(2):
        with pytest.raises(
            MissingDerivativeError, match="makes another class of a custom function at each call"
        ):
            vfunc.FirstOrder(engine="reverse")(problem, theta, phi)
    found = vfunc.FirstOrder()(problem, theta, phi)
    assert "ApplyTemplate lacks a double backward" in str(found.diagnostics["engine_why"])
    assert measures.apart(found.grad, expected) < 1e-8


def test_certification_looks_into_a_compiled_learner_that_is_wrong():
    problem, theta, phi = asked(Stopped)
    with pytest.raises(vfunc.CertificationError, match=r"torch\.Tensor\.detach holds constant"):
        vfunc.certify(problem, theta, phi, "first_order", directions=1, quiet=True)
