"""Every registered estimator with every engine, against finite differences of its own objective."""

from __future__ import annotations

import cases
import measures
import optimizers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vfunc

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 10_000)
HEAVY = settings(max_examples=1)

# The relative error that an exact engine may show, and that of finite differences: with the
# step |eps w| = u^(1/3) / 2 = 3e-6 both truncation (step^2 times a third derivative) and rounding
# (u / step) are near 1e-10 of the gradient in theta. The direction w shrinks its mixed derivative
# by up to three orders against that, and a lookahead multiplies such errors once a step.
EXACT, DIFFERENCED = 1e-6, 1e-5

# The options that a registered estimator is tested with beyond its defaults. An estimator that is
# not listed is tested as it comes: nothing has to be written for it.
VARIANTS = {
    "first_order": [{"value": "dot"}, {"value": "cosine"}, {"value": "preconditioned"}],
    "unrolled": [{"lookahead_steps": k} for k in (1, 2, 4)],
    "implicit": [{"damping": 10.0, "solver_tolerance": 1e-11, "max_iterations": 100}],
}


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
    objective = vfunc.make_estimator(name, options)
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


@pytest.mark.parametrize(("name", "options"), variants())
@pytest.mark.parametrize("case", cases.SMALL)
@given(seed=SEEDS)
def test_gradient_of_the_objective(name, options, case, seed):
    check(cases.situation(case, seed), name, options, seed)


@pytest.mark.parametrize(("name", "options"), variants())
@HEAVY
@given(seed=SEEDS)
def test_gradient_of_the_objective_for_a_transformer(name, options, seed):
    made = cases.situation("qwen2", seed)
    if name == "implicit":  # a random transformer is far from convex
        options = options | {"damping": 20.0}
    check(made, name, options, seed)


@pytest.mark.parametrize("optimizer", list(optimizers.OPTIMIZERS))
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("first_order", {"value": "preconditioned"}),
        ("unrolled", {"lookahead_steps": 1}),
        ("unrolled", {"lookahead_steps": 3}),
    ],
    ids=["preconditioned", "unrolled-1", "unrolled-3"],
)
@HEAVY
@given(seed=SEEDS, case=st.sampled_from(cases.SMALL))
def test_gradient_under_every_optimizer(name, options, optimizer, seed, case):
    check(cases.situation(case, seed, optimizer), name, options, seed)
