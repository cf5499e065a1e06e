"""Finding an estimator by name, and refusing what it does not take."""

from __future__ import annotations

import cases
import measures
import pytest
import user_estimator
from conformance import check, variants

import vfunc

pytestmark = pytest.mark.usefixtures("float64")


def test_the_estimators_that_come_with_the_package():
    assert set(vfunc.ESTIMATORS) >= {"first_order", "unrolled", "implicit", "random", "zero"}


def test_options_reach_the_estimator():
    assert vfunc.make_estimator("unrolled", {"lookahead_steps": 3}) == vfunc.Unrolled(3)
    assert vfunc.make_estimator("first_order", {"value": "cosine"}) == vfunc.FirstOrder("cosine")


def test_an_unknown_name_lists_the_known_and_a_near_one():
    with pytest.raises(vfunc.UserError) as raised:
        vfunc.make_estimator("firstorder")
    message = str(raised.value)
    assert "'firstorder'" in message
    assert "did you mean 'first_order'?" in message
    for name in vfunc.ESTIMATORS:
        assert name in message
    with pytest.raises(vfunc.UserError, match="Known: ") as raised:
        vfunc.make_estimator("xyzzy")
    assert "did you mean" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("first_order", "lookahead_steps"),
        ("unrolled", "damping"),
        ("implicit", "value"),
        ("random", "value"),
        ("zero", "engine"),
        ("first_order", "truncate"),
        ("implicit", "checkpoint_every"),
        ("unrolled", "solver"),
    ],
)
def test_an_option_that_is_not_used_is_refused(name, option):
    flag = "--" + option.replace("_", "-")
    with pytest.raises(vfunc.UserError, match=f"{name!r} does not use {flag}; it takes"):
        vfunc.make_estimator(name, {option: 1})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("first_order", {"value": "dots"}, "unknown value 'dots'; known: dot, cosine, precond"),
        ("unrolled", {"lookahead_steps": 0}, "lookahead_steps must be at least 1, not 0"),
        ("implicit", {"damping": 0.0}, "damping must be above 0"),
        ("implicit", {"damping": -1.0}, "damping must be above 0"),
        ("implicit", {"solver_tolerance": 1.0}, "solver_tolerance must be above 0 and below 1"),
        ("implicit", {"max_iterations": 0}, "max_iterations must be at least 1"),
    ],
)
def test_a_value_that_is_not_accepted_is_refused(name, options, message):
    with pytest.raises(vfunc.UserError, match=message):
        vfunc.make_estimator(name, options)


def test_a_user_s_own_estimator_is_loaded_and_right():
    made = cases.situation("mlp", 4)
    ask = vfunc.make_estimator("user_estimator:TwoBatches", {"share": 0.25})
    estimate = ask(made.problem, made.theta, made.phi)
    along = measures.direction(made.phi, 0)
    expected = measures.slope(
        lambda h: float(ask(made.problem, made.theta, measures.moved(made.phi, h, along)).objective)
    )
    assert measures.inner(estimate.grad, along) == pytest.approx(
        expected, abs=1e-6 * measures.size(estimate.grad)
    )
    with pytest.raises(vfunc.UserError, match="does not use --damping; it takes --share"):
        vfunc.make_estimator("user_estimator:TwoBatches", {"damping": 1.0})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here:Name", "cannot be imported: No module named"),
        ("user_estimator:ThreeBatches", "user_estimator has no 'ThreeBatches'; it has TwoBatches"),
        ("vfunc.errors:UserError", "is no estimator: it has to be a class"),
        ("torch:nn", "is no estimator"),
        ("user_estimator:not_an_estimator", "makes a int, which cannot be called"),
        ("user_estimator:an_estimator", "is a function of theta and phi, .* write a class"),
        (":Name", "cannot be imported"),
        (".relative:Name", "cannot be imported"),
    ],
)
def test_a_user_s_estimator_that_cannot_be_loaded(name, message):
    with pytest.raises(vfunc.UserError, match=message):
        vfunc.make_estimator(name)


def test_a_taken_name_is_refused():
    with pytest.raises(vfunc.UserError, match="'zero' is already registered"):
        vfunc.register_estimator("zero")(vfunc.Zero)


def test_a_registered_estimator_joins_the_finite_difference_test(monkeypatch):
    assert {p.values[0] for p in variants()} == set(vfunc.ESTIMATORS)
    monkeypatch.setattr(vfunc.estimators.estimator, "ESTIMATORS", dict(vfunc.ESTIMATORS))
    monkeypatch.setattr(vfunc, "ESTIMATORS", vfunc.estimators.estimator.ESTIMATORS)
    vfunc.register_estimator("two_batches")(user_estimator.TwoBatches)
    assert "two_batches" in {p.values[0] for p in variants()}
    check(cases.situation("mlp view", 1), "two_batches", {}, 1)
