"""Several feedback tasks: the weighted sum of their losses, and the mean over matched domains."""

from __future__ import annotations

from dataclasses import replace

import cases
import conformance
import measures
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vfunc
from vfunc import trees
from vfunc.estimators import held_at
from vfunc.feedback import DomainMatched, weighted_feedback

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 10**6)
LINEAR = [
    ("first_order", {}),
    ("first_order", {"value": "preconditioned"}),
    ("first_order", {"value": "deflated"}),
    ("unrolled", {"lookahead_steps": 2}),
    ("implicit", conformance.IMPLICIT),
]
FRESH = ("first_order", {"value": "deflated", "means": 0, "mean_batches": 2})
COSINE = ("first_order", {"value": "cosine"})


def named(case):
    return "-".join([case[0], *map(str, case[1].values())])


def second_loss(theta, seed):
    """Another smooth loss of the same theta."""
    w = measures.direction(theta, seed + 1)
    return lambda point: sum(
        ((3 * x * w[n]).sin() + (x * w[n]) ** 2).sum() for n, x in point.items()
    )


def two_tasks(seed, case="mlp", optimizer="adamw"):
    """A situation, and two feedback losses of its theta."""
    made = cases.with_means(cases.situation(case, seed, optimizer))
    return made, {"a": made.problem.feedback_loss, "b": second_loss(made.theta, seed)}


def asked(made, estimator, loss):
    return estimator(replace(made.problem, feedback_loss=loss), made.theta, made.phi)


def gradient(loss, theta):
    theta = trees.leaves(theta)
    return trees.gradient(loss(theta), theta)


@given(SEEDS, st.floats(-2, 2), st.floats(0.1, 2))
@pytest.mark.parametrize("case", LINEAR, ids=named)
def test_value_and_gradient_are_linear_in_the_weights(case, seed, first, second):
    made, losses = two_tasks(seed)
    estimator = vfunc.make_estimator(*case)
    parts = {name: asked(made, estimator, loss) for name, loss in losses.items()}
    weights = {"a": first, "b": second}
    whole = asked(made, estimator, weighted_feedback(losses, weights))
    for key in ("value", "objective"):
        expected = sum(weights[n] * float(getattr(e, key)) for n, e in parts.items())
        size = sum(abs(float(getattr(e, key))) for e in parts.values())
        assert float(getattr(whole, key)) == pytest.approx(expected, rel=1e-9, abs=1e-9 * size)
    expected = trees.axpy(first, parts["a"].grad, trees.scale(parts["b"].grad, second))
    sizes = sum(measures.size(e.grad) for e in parts.values())
    off = measures.size(trees.axpy(-1.0, expected, whole.grad))
    bound = 1e-7 if case[0] == "implicit" else 1e-10  # its linear systems end at a tolerance
    assert sizes > 0 and off <= bound * sizes


def test_the_cosine_is_not_linear_and_does_not_see_the_size_of_all_weights():
    made, losses = two_tasks(3)
    estimator = vfunc.make_estimator(*COSINE)
    whole, doubled = (
        asked(made, estimator, weighted_feedback(losses, {"a": a, "b": b}))
        for a, b in ((0.7, 0.3), (1.4, 0.6))
    )
    parts = [float(asked(made, estimator, loss).objective) for loss in losses.values()]
    assert abs(float(whole.objective) - (0.7 * parts[0] + 0.3 * parts[1])) > 1e-3
    assert float(whole.objective) == pytest.approx(float(doubled.objective), rel=1e-12)
    assert measures.apart(whole.grad, doubled.grad) < 1e-12


@given(SEEDS)
def test_the_sum_has_the_weighted_gradient(seed):
    made, losses = two_tasks(seed)
    loss = weighted_feedback(losses, {"b": 0.25, "a": 0.75})
    parts = {n: gradient(one, made.theta) for n, one in losses.items()}
    expected = trees.axpy(0.25, parts["b"], trees.scale(parts["a"], 0.75))
    assert measures.apart(gradient(loss, made.theta), expected) < 1e-14
    value = 0.75 * losses["a"](made.theta) + 0.25 * losses["b"](made.theta)
    torch.testing.assert_close(loss(made.theta), value)
    mean = weighted_feedback(losses)(made.theta)
    torch.testing.assert_close(mean, sum(one(made.theta) for one in losses.values()) / 2)


@given(SEEDS)
def test_normalised_tasks_have_gradients_of_one_length_at_theta_t_alone(seed):
    made, losses = two_tasks(seed)
    weights = {"a": 2.0, "b": 3.0}
    loss = weighted_feedback(losses, weights, normalise_at=made.theta)
    sizes = {n: measures.size(gradient(one, made.theta)) for n, one in losses.items()}
    # elsewhere the divisors are those of theta_t: the loss is one function, not a moving one
    there = measures.moved(made.theta, 0.3, measures.direction(made.theta, seed))
    for point in (made.theta, there):
        parts = {n: gradient(one, point) for n, one in losses.items()}
        expected = trees.axpy(3 / sizes["b"], parts["b"], trees.scale(parts["a"], 2 / sizes["a"]))
        assert measures.apart(gradient(loss, point), expected) < 1e-13
    along = measures.direction(made.theta, seed + 2)
    slope = measures.slope(lambda h: float(loss(measures.moved(there, h, along))))
    assert slope == pytest.approx(measures.inner(gradient(loss, there), along), abs=1e-8)


@given(SEEDS)
@pytest.mark.parametrize("normalise", [False, True])
def test_the_order_of_tasks_does_not_matter(normalise, seed):
    made, losses = two_tasks(seed)
    at = made.theta if normalise else None
    backwards = dict(reversed(losses.items()))
    one = weighted_feedback(losses, {"a": 0.7, "b": 0.3}, normalise_at=at)(made.theta)
    other = weighted_feedback(losses, {"b": 0.3, "a": 0.7}, normalise_at=at)(made.theta)
    turned = weighted_feedback(backwards, {"a": 0.7, "b": 0.3}, normalise_at=at)(made.theta)
    assert torch.equal(one, other)
    torch.testing.assert_close(one, turned, rtol=1e-14, atol=1e-14)


def test_a_task_without_a_gradient_is_left_out_of_the_normalised_sum():
    made, losses = two_tasks(1)
    flat = {"flat": lambda theta: torch.zeros(()), **losses}
    weights = dict.fromkeys(flat, 1.0)
    loss = weighted_feedback(flat, weights, normalise_at=made.theta)
    without = weighted_feedback(losses, {"a": 1.0, "b": 1.0}, normalise_at=made.theta)
    assert torch.equal(loss(made.theta), without(made.theta))
    nothing = weighted_feedback({"flat": flat["flat"]}, normalise_at=made.theta)
    assert float(nothing(made.theta)) == 0.0


@pytest.mark.parametrize(
    ("names", "weights", "said"),
    [
        ("", None, "at least one loss"),
        ("ab", {"a": 1.0}, "the weights are for a; the feedback tasks are a, b"),
        ("ab", {"a": 1.0, "b": float("nan")}, "finite"),
        ("ab", {"a": 0.0, "b": 0.0}, "not all zero"),
    ],
)
def test_weights_that_do_not_fit_are_refused(names, weights, said):
    _, losses = two_tasks(0)
    with pytest.raises(vfunc.UserError, match=said):
        weighted_feedback({n: losses[n] for n in names}, weights)


def domains(seed, count=2, **more):
    """A situation whose problem has domains: batches and losses of their own."""
    made, losses = two_tasks(seed)
    found = {}
    for d, (name, loss) in enumerate([*losses.items(), ("c", second_loss(made.theta, seed + 9))]):
        batches = made.problem.batches[d:] + made.problem.batches[:d]
        found[name] = replace(made.problem, batches=batches, feedback_loss=loss, **more)
    problem = replace(made.problem, domains=dict(list(found.items())[:count]))
    return replace(made, problem=problem)


ALL = [*LINEAR, COSINE]


@given(SEEDS)
@pytest.mark.parametrize("case", ALL, ids=named)
def test_the_matched_estimate_is_the_mean_over_domains(case, seed):
    made = domains(seed, 3)
    estimator = vfunc.make_estimator(*case)
    whole = DomainMatched(estimator)(made.problem, made.theta, made.phi)
    parts = [estimator(p, made.theta, made.phi) for p in made.problem.domains.values()]
    for key in ("value", "objective"):
        mean = sum(float(getattr(e, key)) for e in parts) / 3
        assert float(getattr(whole, key)) == pytest.approx(mean, rel=1e-12, abs=1e-15)
    total = trees.axpy(1.0, parts[2].grad, trees.axpy(1.0, parts[1].grad, parts[0].grad))
    assert measures.apart(whole.grad, trees.scale(total, 1 / 3)) < 1e-12
    assert whole.scale == parts[0].scale
    for name, part in zip(made.problem.domains, parts, strict=True):
        for key, value in part.diagnostics.items():
            assert whole.diagnostics[f"{name}/{key}"] == value or value != value
    for key in ("forwards", "backwards", "tangents"):
        assert whole.diagnostics[key] == sum(e.diagnostics[key] for e in parts)


@given(SEEDS)
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("case", [*ALL, FRESH], ids=named)
def test_the_matched_gradient_is_the_slope_of_its_objective(case, normalise, seed):
    made = domains(seed)
    estimator = DomainMatched(vfunc.make_estimator(*case), normalise)
    along = measures.direction(made.phi, seed)
    held = held_at(estimator, made.problem, made.theta, made.phi)
    expected = measures.slope(
        lambda h: float(
            held(made.problem, made.theta, measures.moved(made.phi, h, along)).objective
        )
    )
    estimate = estimator(made.problem, made.theta, made.phi)
    got = measures.inner(estimate.grad, along)
    assert abs(got - expected) <= conformance.EXACT * measures.size(estimate.grad)


@given(SEEDS)
@pytest.mark.parametrize("case", ALL, ids=named)
def test_domains_that_coincide_are_one_problem(case, seed):
    made = cases.situation("mlp", seed, "adamw")
    estimator = vfunc.make_estimator(*case)
    twice = replace(made.problem, domains={"a": made.problem, "b": made.problem})
    one = estimator(made.problem, made.theta, made.phi)
    both = DomainMatched(estimator)(twice, made.theta, made.phi)
    assert float(both.value) == pytest.approx(float(one.value), rel=1e-14)
    assert float(both.objective) == pytest.approx(float(one.objective), rel=1e-14)
    assert measures.apart(both.grad, one.grad) < 1e-14


@given(SEEDS)
def test_the_order_of_domains_does_not_matter(seed):
    made = domains(seed)
    turned = replace(made.problem, domains=dict(reversed(made.problem.domains.items())))
    estimator = DomainMatched(vfunc.FirstOrder("cosine"))
    one, other = (estimator(p, made.theta, made.phi) for p in (made.problem, turned))
    assert torch.equal(one.objective, other.objective)
    assert measures.apart(one.grad, other.grad) < 1e-14


@given(SEEDS)
def test_normalising_matched_domains_makes_a_mean_of_unit_directions(seed):
    made = domains(seed)
    dot = DomainMatched(vfunc.FirstOrder("dot"), normalise=True)
    estimate = dot(made.problem, made.theta, made.phi)
    expected = trees.zeros_like(made.phi)
    for one in made.problem.domains.values():
        size = measures.size(gradient(one.feedback_loss, made.theta))
        part = vfunc.FirstOrder("dot")(one, made.theta, made.phi)
        expected = trees.axpy(0.5 / size, part.grad, expected)
    assert measures.apart(estimate.grad, expected) < 1e-12
    plain, same = (
        DomainMatched(vfunc.FirstOrder("cosine"), n)(made.problem, made.theta, made.phi)
        for n in (False, True)
    )
    assert measures.apart(same.grad, plain.grad) < 1e-12
    assert float(same.objective) == pytest.approx(float(plain.objective), rel=1e-12)


def test_a_silent_domain_counts_as_zero_and_is_not_asked():
    made = domains(4)
    parts = made.problem.domains
    quiet = replace(parts["b"], silent=True, feedback_loss=lambda theta: torch.zeros(()))
    problem = replace(made.problem, domains={"a": parts["a"], "b": quiet})
    estimator = vfunc.FirstOrder("cosine")  # of a zero gradient it is not a number
    found = DomainMatched(estimator)(problem, made.theta, made.phi)
    alone = estimator(parts["a"], made.theta, made.phi)
    assert float(found.objective) == pytest.approx(float(alone.objective) / 2, rel=1e-14)
    assert measures.apart(found.grad, trees.scale(alone.grad, 0.5)) < 1e-14
    silent = replace(problem, domains={"b": quiet})
    nothing = DomainMatched(estimator)(silent, made.theta, made.phi)
    assert float(nothing.value) == 0 and trees.is_zero(nothing.grad)


def test_what_is_approximate_in_a_domain_is_approximate_in_the_mean():
    made = domains(5)

    def cut_short(problem, theta, phi):
        return replace(vfunc.FirstOrder()(problem, theta, phi), approximations=("cut short",))

    estimate = DomainMatched(cut_short)(made.problem, made.theta, made.phi)
    assert estimate.approximations == ("cut short",)
    assert DomainMatched(cut_short).engine == "auto"
    assert DomainMatched(vfunc.FirstOrder(engine="reverse")).engine == "reverse"


def test_what_cannot_be_averaged_is_refused():
    made = domains(6)
    with pytest.raises(vfunc.UserError, match="has none"):
        DomainMatched(vfunc.FirstOrder())(replace(made.problem, domains={}), made.theta, made.phi)

    def own_scale(problem, theta, phi):
        estimate = vfunc.FirstOrder()(problem, theta, phi)
        first = problem.feedback_loss is made.problem.domains["a"].feedback_loss
        return replace(estimate, scale=1.0 if first else 2.0)

    with pytest.raises(vfunc.UserError, match="differ in scale"):
        DomainMatched(own_scale)(made.problem, made.theta, made.phi)
