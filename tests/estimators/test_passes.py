"""The learner passes that the diagnostics report are those that were spent."""

from __future__ import annotations

from dataclasses import replace

import cases
import pytest
import torch
from conformance import ALL

import vfunc

pytestmark = pytest.mark.usefixtures("float64")


def counted(problem):
    """The problem with a list that grows by one at every forward of the learner."""
    calls = []

    def noting(function):
        def call(*args):
            calls.append(function)
            return function(*args)

        return call

    linear = problem.linear
    if linear is not None:
        linear = vfunc.LinearForm(linear.target, noting(linear.coefficients))
    return calls, replace(
        problem,
        pretrain_loss=noting(problem.pretrain_loss),
        feedback_loss=noting(problem.feedback_loss),
        linear=linear,
    )


@pytest.mark.parametrize("case", ["mlp", "mlp view"])
@pytest.mark.parametrize(("name", "options"), ALL)
def test_passes_are_what_was_spent(name, options, case, monkeypatch):
    made = cases.situation(case, 7)
    names = ["reverse", "forward", "finite_difference", "auto"]
    if case == "mlp" and options.get("lookahead_steps", 1) == 1:
        names.append("linear")
    backwards = []
    real = torch.autograd.grad

    def grad(outputs, inputs, *args, **kwargs):
        # the designer's own vector-Jacobian product passes cotangents; it is not the learner's
        if not args and isinstance(outputs, torch.Tensor):
            backwards.append(outputs)
        return real(outputs, inputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    for engine in [None] if name == "zero" else names:
        chosen = dict(options) if engine is None else options | {"engine": engine}
        calls, problem = counted(made.problem)
        backwards.clear()
        estimate = vfunc.make_estimator(name, chosen)(problem, made.theta, made.phi)
        spent = estimate.diagnostics
        assert spent["forwards"] + spent["tangents"] == len(calls), engine
        if spent["tangents"] == 0:
            # functional transforms do their backward passes elsewhere
            assert spent["backwards"] == len(backwards), engine


@pytest.mark.parametrize(
    ("engine", "case", "passes"),
    [
        ("reverse", "mlp", (2, 3, 0)),
        ("forward", "mlp", (1, 2, 1)),
        ("linear", "mlp", (1, 1, 1)),
        ("finite_difference", "mlp", (3, 1, 0)),
        ("finite_difference", "mlp view", (3, 3, 0)),
    ],
)
def test_passes_of_the_first_order_value(engine, case, passes):
    made = cases.situation(case, 0)
    notes = vfunc.FirstOrder(engine=engine)(made.problem, made.theta, made.phi).diagnostics
    assert (notes["forwards"], notes["backwards"], notes["tangents"]) == passes
    assert notes["engine"] == engine
    assert notes["engine_why"] == "asked for"
