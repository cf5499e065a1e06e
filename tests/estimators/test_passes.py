"""The learner passes that the diagnostics report are those that were spent."""

from __future__ import annotations

from dataclasses import replace

import cases
import pytest
import torch
import torch._functorch.eager_transforms as functional
from conformance import ALL

import vfunc
from vfunc.pullback import product

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


SEVERAL = [
    *ALL,
    ("unrolled", {"lookahead_steps": 4, "truncate": 2}),
    ("unrolled", {"lookahead_steps": 2, "series": True}),
    ("unrolled", {"lookahead_steps": 4, "checkpoint_every": 2}),
    ("unrolled", {"lookahead_steps": 4, "truncate": 3, "checkpoint_every": 2}),
]


@pytest.mark.parametrize("case", ["mlp", "mlp view"])
@pytest.mark.parametrize(("name", "options"), SEVERAL)
def test_passes_are_what_was_spent(name, options, case, monkeypatch):
    # looked for once for each piece of code, and not a part of an estimate
    for look in ("require_no_stop_gradient", "require_custom_derivatives", "require_tangent"):
        monkeypatch.setattr(product, look, lambda *given: None)
    made = cases.situation(case, 7)
    names = ["reverse", "forward", "finite_difference", "auto"]
    if case == "mlp" and options.get("lookahead_steps", 1) == 1:
        names.append("linear")
    backwards, tangents = [], []
    real, real_functional, real_jvp = torch.autograd.grad, functional._autograd_grad, torch.func.jvp

    def grad(outputs, inputs, *args, **kwargs):
        # the designer's own vector-Jacobian product passes cotangents; it is not the learner's.
        # So do functional transforms: they are counted below.
        if not args and isinstance(outputs, torch.Tensor):
            backwards.append(outputs)
        return real(outputs, inputs, *args, **kwargs)

    def functional_grad(*args, **kwargs):
        backwards.append(args)
        return real_functional(*args, **kwargs)

    def jvp(*args, **kwargs):
        tangents.append(args)
        return real_jvp(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    monkeypatch.setattr(functional, "_autograd_grad", functional_grad)
    monkeypatch.setattr(torch.func, "jvp", jvp)
    for engine in [None] if name == "zero" else names:
        chosen = dict(options) if engine is None else options | {"engine": engine}
        calls, problem = counted(made.problem)
        backwards.clear()
        tangents.clear()
        estimate = vfunc.make_estimator(name, chosen)(problem, made.theta, made.phi)
        spent = estimate.diagnostics
        assert spent["forwards"] + spent["tangents"] == len(calls), engine
        assert spent["tangents"] == len(tangents), engine
        assert spent["backwards"] == len(backwards), engine


@pytest.mark.parametrize(
    ("engine", "case", "passes"),
    [
        ("reverse", "mlp", (2, 3, 0)),
        ("forward", "mlp", (1, 2, 1)),
        ("linear", "mlp", (1, 1, 1)),
        ("finite_difference", "mlp", (5, 1, 0)),
        ("finite_difference", "mlp view", (5, 5, 0)),
    ],
)
def test_passes_of_the_first_order_value(engine, case, passes):
    made = cases.situation(case, 0)
    notes = vfunc.FirstOrder(engine=engine)(made.problem, made.theta, made.phi).diagnostics
    assert (notes["forwards"], notes["backwards"], notes["tangents"]) == passes
    assert notes["engine"] == engine
    assert notes["engine_why"] == "asked for"


DOWN, PRE = (1, 1, 0), (1, 1, 0)  # forwards, backwards, tangents of one gradient
VALUE = (1, 0, 0)  # L_down alone
SAVED = {"reverse": (-1, -1, 0)}  # where the last step's gradient keeps its graph
SECOND = {"reverse": (1, 2, 0), "forward": (0, 1, 1), "linear": (0, 0, 1)}


def total(*passes):
    """Sum, kind by kind."""
    return tuple(map(sum, zip(*passes, strict=True)))


@pytest.mark.parametrize("engine", ["linear", "reverse", "forward"])
@pytest.mark.parametrize(
    ("name", "options", "plain"),
    [
        # dot by linear: no backward through the learner but g_down's
        ("first_order", {"value": "dot"}, [DOWN]),
        ("first_order", {"value": "cosine"}, [DOWN, PRE]),
        ("first_order", {"value": "preconditioned"}, [DOWN, PRE]),
        # the means are there: what is taken out costs no pass
        ("first_order", {"value": "deflated"}, [DOWN]),
        ("first_order", {"value": "deflated_preconditioned"}, [DOWN, PRE]),
        # a gradient a batch; the first one's is at hand where the step takes it
        ("first_order", {"value": "deflated", "means": 0, "mean_batches": 3}, [DOWN, *[PRE] * 3]),
        (
            "first_order",
            {"value": "deflated_preconditioned", "mean_batches": 3},
            [DOWN, *[PRE] * 3],
        ),
        # L_down at both ends: the value and the adjoint's start
        ("unrolled", {"lookahead_steps": 1}, [VALUE, PRE, DOWN]),
        ("unrolled", {"lookahead_steps": 1, "series": True}, [DOWN, PRE, DOWN]),
    ],
)
def test_one_second_order_pass_and_the_plain_gradients(name, options, plain, engine):
    made = cases.with_means(cases.situation("mlp", 0))
    options = options | {"engine": engine}
    notes = vfunc.make_estimator(name, options)(made.problem, made.theta, made.phi).diagnostics
    spent = notes["forwards"], notes["backwards"], notes["tangents"]
    saved = SAVED.get(engine, ()) if name == "unrolled" else ()
    assert spent == total(*plain, SECOND[engine], saved or (0, 0, 0))


@pytest.mark.parametrize("engine", ["reverse", "forward"])
@pytest.mark.parametrize(
    ("options", "again", "differentiated"),
    [
        ({}, 0, 8),
        ({"checkpoint_every": 1}, 0, 8),
        ({"checkpoint_every": 2}, 6, 8),
        ({"checkpoint_every": 3}, 6, 8),
        ({"checkpoint_every": 7}, 7, 8),
        ({"checkpoint_every": 8}, 0, 8),
        ({"truncate": 5}, 0, 5),
        ({"truncate": 5, "checkpoint_every": 2}, 4, 5),
    ],
    ids=str,
)
def test_passes_of_a_lookahead_of_eight(engine, options, again, differentiated):
    """K gradients, those made again from stored states, and one second-order pass a step."""
    made = cases.situation("mlp", 0)
    problem = replace(made.problem, batches=made.problem.batches * 2)
    ask = vfunc.Unrolled(8, engine=engine, **options)
    notes = ask(problem, made.theta, made.phi).diagnostics
    spent = notes["forwards"], notes["backwards"], notes["tangents"]
    saved = SAVED.get(engine, (0, 0, 0))
    once = [VALUE, DOWN, *[PRE] * (8 + again), *[SECOND[engine]] * differentiated]
    assert spent == total(*once, saved)


@pytest.mark.parametrize(
    ("steps", "passes"),
    [
        # L_down at both ends, a backward at the second; g_pre, and a backward through both
        (1, (3, 3, 0)),
        # a gradient more for the step, and a double backward with its own forward
        (2, (5, 6, 0)),
    ],
)
def test_the_last_step_of_a_lookahead_is_not_computed_twice(steps, passes):
    made = cases.situation("mlp view", 7)
    ask = vfunc.Unrolled(steps, engine="reverse")
    spent = ask(made.problem, made.theta, made.phi).diagnostics
    assert tuple(spent[kind] for kind in ("forwards", "backwards", "tangents")) == passes
