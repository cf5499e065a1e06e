"""What every registered estimator has to satisfy: its gradient is its own objective's slope."""

from __future__ import annotations

import cases
import measures
import pytest

import vfunc
from vfunc.estimators import held_at

# The relative error that an exact engine may show, and that of finite differences: with the
# step |eps w| = u^(1/3) / 2 = 3e-6 both truncation (step^2 times a third derivative) and rounding
# (u / step) are near 1e-10 of the gradient in theta. The direction w shrinks its mixed derivative
# by up to three orders against that, and a lookahead multiplies such errors once a step.
EXACT, DIFFERENCED = 1e-6, 1e-5

# The options that a registered estimator is tested with beyond its defaults. An estimator that is
# not listed is tested as it comes: nothing has to be written for it.
VARIANTS = {
    "first_order": [
        {"value": "dot"},
        {"value": "cosine"},
        {"value": "preconditioned"},
        {"value": "deflated"},
        {"value": "deflated", "means": 2, "beta": 0.5},
        {"value": "deflated_preconditioned"},
        {"value": "deflated", "mean_batches": 3, "beta": 0.7},
        {"value": "deflated_preconditioned", "means": 0, "mean_batches": 2},
    ],
    "unrolled": [{"lookahead_steps": k} for k in (1, 2, 4)],
    # its other exact solvers have finite differences of their own in test_implicit
    "implicit": [{"damping": 10.0, "solver_tolerance": 1e-11, "max_iterations": 100}],
}

# One of each kind, quick to run: for what does not need the last digits.
IMPLICIT = {"damping": 10.0, "solver_tolerance": 1e-8}
ALL = [
    ("first_order", {}),
    ("first_order", {"value": "cosine"}),
    ("first_order", {"value": "preconditioned"}),
    ("unrolled", {}),
    ("unrolled", {"lookahead_steps": 3}),
    ("implicit", IMPLICIT),
    ("random", {}),
    ("zero", {}),
    ("first_order", {"value": "deflated"}),
    ("first_order", {"value": "deflated_preconditioned"}),
    ("first_order", {"value": "deflated", "means": 0, "mean_batches": 2}),
]


def variants():
    """(name, options) of every registered estimator."""
    return [
        pytest.param(name, options, id="-".join([name, *map(str, options.values())]))
        for name in vfunc.ESTIMATORS
        for options in VARIANTS.get(name, [{}])
    ]


def engine_names(name, options, made):
    """The engines that this estimator can be given here."""
    if "engine" not in vfunc.estimators.option_names(vfunc.ESTIMATORS[name]):
        return [None]
    return [
        *cases.engines(made, hessian=options.get("lookahead_steps", 1) > 1),
        "finite_difference",
    ]


def check(made, name, options, seed):
    """|slope of the objective - <grad, direction>| <= bound |grad|, for every engine."""
    estimator = vfunc.make_estimator(name, options)
    taken = getattr(estimator, "running_means", 0)
    if taken:
        made = cases.with_means(made, taken)
    objective = held_at(estimator, made.problem, made.theta, made.phi)
    along = measures.direction(made.phi, seed)
    if name == "zero":
        expected = 0.0
    else:
        expected = measures.slope(
            lambda h: float(
                objective(made.problem, made.theta, measures.moved(made.phi, h, along)).objective
            )
        )
    for engine in engine_names(name, options, made):
        given_ = options if engine is None else options | {"engine": engine}
        if engine == "finite_difference" and name == "implicit":
            given_ = given_ | {"solver_tolerance": 1e-9}  # its own products are no more exact
        estimate = vfunc.make_estimator(name, given_)(made.problem, made.theta, made.phi)
        got = measures.inner(estimate.grad, along)
        bound = DIFFERENCED if engine == "finite_difference" else EXACT
        assert abs(got - expected) <= bound * measures.size(estimate.grad), engine
        if name != "zero":
            assert measures.size(estimate.grad) > 0
