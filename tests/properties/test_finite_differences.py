"""Every registered estimator with every engine, against finite differences of its own objective."""

from __future__ import annotations

import cases
import optimizers
import pytest
from conformance import check, variants
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 10_000)
HEAVY = settings(max_examples=1)


LONG = ("implicit",)
"""Of these test_implicit differences the solved inner problem too, by every exact solver."""


@pytest.mark.parametrize(("name", "options"), [v for v in variants() if v.values[0] not in LONG])
@pytest.mark.parametrize("case", cases.SMALL)
@given(seed=SEEDS)
def test_gradient_of_the_objective(name, options, case, seed):
    check(cases.situation(case, seed), name, options, seed)


@pytest.mark.parametrize(("name", "options"), [v for v in variants() if v.values[0] in LONG])
@pytest.mark.parametrize("case", cases.SMALL)
@HEAVY
@given(seed=SEEDS)
def test_gradient_of_an_objective_that_is_solved_for(name, options, case, seed):
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
