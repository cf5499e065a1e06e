"""The deflated values: what is taken out of g_down, from which means, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import cases
import measures
import optimizers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.deflation import deflated, flat

import vfunc
from vfunc import trees
from vfunc.estimators.deflation import deflate
from vfunc.simulate import SGD, UpdateRule

SEEDS = st.integers(0, 10_000)
BOTH = ("deflated", "deflated_preconditioned")
PLAIN = {"deflated": "dot", "deflated_preconditioned": "preconditioned"}
float64 = pytest.mark.usefixtures("float64")


def vectors(seed, count, dtype=torch.float64):
    """g and some means, of three tensors each, one of them empty."""
    draw = measures.generator(seed)
    shapes = {"a": (4, 3), "b": (5,), "none": (0, 2)}
    made = [{n: measures.normal(draw, *s).to(dtype) for n, s in shapes.items()}
            for _ in range(count + 1)]  # fmt: skip
    return made[0], made[1:]


def ask(made, value, **options):
    return vfunc.FirstOrder(value, **options)(made.problem, made.theta, made.phi)


def same(one, other):
    """Whether two estimates are the same bit for bit."""
    grads = all(torch.equal(one.grad[n], other.grad[n]) for n in other.grad)
    return grads and torch.equal(one.value, other.value) and one.scale == other.scale


def probed(value, held, rule=None, g=None, state=None, **options):
    """The direction w itself: a loss that is linear in theta gives it back as the gradient."""
    theta = {n: torch.zeros_like(x) for n, x in held[0].items()}
    g = g or vectors(99, 0)[0]
    problem = vfunc.ValueProblem(
        construct=lambda phi, batch: dict(phi),
        pretrain_loss=lambda theta, task: sum((theta[n] * task[n]).sum() for n in theta),
        feedback_loss=lambda theta: sum((theta[n] * g[n]).sum() for n in theta),
        batches=(None,),
        rule=rule or UpdateRule(SGD(0.1)),
        state=state or {},
        means=tuple(held),
    )
    phi = vectors(98, 0)[0]
    return vfunc.FirstOrder(value, **options)(problem, theta, phi)


@given(seed=SEEDS, count=st.integers(1, 4), beta=st.sampled_from([0.3, 1.0]))
def test_the_projection_is_that_of_a_least_squares_fit(seed, count, beta):
    g, means = vectors(seed, count)
    found = deflate(g, means, beta)
    assert torch.allclose(flat(found.rest, list(g)), deflated(g, means, beta), atol=1e-13)
    assert found.used == count and 0 <= found.share <= 1
    for mean, cosine in zip(means, found.cosines, strict=True):
        size = measures.size(g) * measures.size(mean)
        assert cosine == pytest.approx(measures.inner(g, mean) / size)


@pytest.mark.parametrize("kind", ["twice", "sum", "nearly", "zero", "tiny", "huge", "denormal"])
@given(seed=SEEDS)
def test_means_that_add_nothing_or_are_of_odd_sizes(kind, seed):
    g, (one, two) = vectors(seed, 2)
    tiny = {n: x * 1e-200 for n, x in two.items()}
    third = {
        "twice": trees.scale(one, -3.0),
        "sum": trees.axpy(2.0, one, two),
        "nearly": trees.axpy(1e-9, two, one),
        "zero": trees.zeros_like(one),
        "tiny": tiny,
        "huge": trees.scale(two, 1e200),
        "denormal": {n: x * 1e-310 for n, x in two.items()},
    }[kind]
    means = [one, third] if kind in ("twice", "nearly", "zero") else [one, two, third]
    used = 1 if len(means) == 2 else 2
    found = deflate(g, means, 1.0)
    assert found.used == used
    assert torch.allclose(flat(found.rest, list(g)), deflated(g, [one, two][:used], 1.0), atol=1e-8)


def test_vectors_of_every_size_and_several_dtypes():
    g, (one, two) = vectors(3, 2)
    kinds = {"a": torch.float32, "b": torch.bfloat16, "none": torch.float64}
    mixed = [{n: x.to(kinds[n]) for n, x in v.items()} for v in (g, one, two)]
    found = deflate(mixed[0], mixed[1:], 1.0)
    assert {n: x.dtype for n, x in found.rest.items()} == kinds
    assert found.used == 2
    want = deflated(mixed[0], mixed[1:], 1.0)
    assert torch.allclose(flat(found.rest, list(g)), want, atol=0.01)
    # nearly the same to bfloat16's digits: the difference is rounding, and no direction
    off = {n: (x.double() * 1.002).to(x.dtype) for n, x in mixed[1].items()}
    assert deflate(mixed[0], [mixed[1], off], 1.0).used == 1


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e30])
def test_squares_that_leave_single_precision(size):
    g, (one, two) = vectors(5, 2, torch.float32)
    small = [{n: (x.double() * size).float() for n, x in v.items()} for v in (one, two)]
    rest = deflate(g, small, 1.0).rest
    assert torch.allclose(flat(rest, list(g)), deflated(g, small, 1.0), atol=1e-6)
    assert deflate(small[0], [one, two], 1.0).used == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_left_of_a_mean_itself_is_zero_and_not_rounding(dtype):
    _, (one, two) = vectors(7, 2, dtype)
    g = trees.axpy(0.3, two, trees.scale(one, 0.7))
    assert trees.is_zero(deflate(g, [one, two], 1.0).rest)
    assert not trees.is_zero(deflate(g, [one], 1.0).rest)


def test_pieces_add_up(monkeypatch):
    g, means = vectors(4, 2)
    whole = deflate(g, means, 1.0).rest
    monkeypatch.setattr("vfunc.estimators.deflation.PIECE", 3)
    assert measures.apart(deflate(g, means, 1.0).rest, whole) < 1e-14


@float64
@pytest.mark.parametrize("value", BOTH)
@pytest.mark.parametrize("optimizer", ["clip adamw"])
@given(seed=SEEDS, case=st.sampled_from(cases.SMALL))
def test_nothing_taken_out_is_the_plain_value_bit_for_bit(value, optimizer, seed, case):
    made = cases.situation(case, seed, optimizer)
    held = cases.with_means(made, 2)
    zero = replace(made.problem, means=(trees.zeros_like(made.theta),))
    plain = ask(made, PLAIN[value])
    assert same(ask(held, value, means=0), plain)
    assert same(ask(held, value, means=2, beta=0.0), plain)
    assert same(ask(held, PLAIN[value]), plain)
    for without in (made, replace(made, problem=zero)):
        estimate = ask(without, value)
        assert same(estimate, plain) and estimate.diagnostics["means_used"] == 0
    assert not same(ask(held, value), plain)


@float64
@given(seed=SEEDS, case=st.sampled_from(cases.SMALL))
def test_the_batch_s_own_gradient_gives_cosine_s_direction(seed, case):
    made = cases.situation(case, seed)
    task = made.problem.construct(made.phi, made.problem.batches[0])
    g_pre = vfunc.pretrain_gradient(made.problem, made.theta, task)
    own = replace(made, problem=replace(made.problem, means=(g_pre,)))
    found, cosine = ask(own, "deflated"), ask(made, "cosine")
    _, g_down = vfunc.feedback_gradient(made.problem, made.theta)
    times = made.optimizer.lr * measures.size(g_down) * measures.size(g_pre)
    # both gradients are small beside those of their terms where the two are nearly parallel
    scaled = {n: times * x for n, x in cosine.grad.items()}
    gap = measures.size({n: found.grad[n] - scaled[n] for n in scaled})
    assert gap <= 1e-9 * times * max(measures.size(cosine.grad), 1.0)
    assert abs(float(found.value)) <= 1e-12 * times
    assert found.diagnostics["mean_cosine"] == pytest.approx(float(cosine.objective))
    assert found.diagnostics["in_span"] == pytest.approx(abs(float(cosine.objective)))


def by_group(factor):
    return UpdateRule({"a": SGD(0.1), "b": SGD(0.1 * factor), "none": SGD(0.1)})


@pytest.mark.parametrize("factor", [1.0, 0.01, 0.0])
@pytest.mark.parametrize("value", BOTH)
@given(seed=SEEDS, beta=st.sampled_from([0.5, 1.0]))
def test_a_step_along_a_mean_keeps_the_share_that_beta_leaves(value, factor, seed, beta):
    """<w, mean> = (1 - beta) eta <g_down, mean>; with groups of their own step sizes too."""
    _, means = vectors(seed, 2)
    rule = by_group(factor)
    w = probed(value, means, rule, means=2, beta=beta).grad
    plain = probed("dot", means, rule).grad
    for mean in means:
        size = measures.size(w) * measures.size(mean)
        left = (1 - beta) * measures.inner(plain, mean)
        assert measures.inner(w, mean) == pytest.approx(left, abs=1e-12 * max(size, 1.0))


@given(seed=SEEDS)
def test_one_step_size_gives_the_plain_projection(seed):
    g, means = vectors(seed, 2)
    w = probed("deflated", means, g=g, means=2, beta=0.7).grad
    assert torch.allclose(flat(w, list(g)), 0.1 * deflated(g, means, 0.7), atol=1e-14)


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "sgd decay"])
@given(seed=SEEDS)
def test_an_affine_step_gives_a_mean_no_value(optimizer, seed):
    _, means = vectors(seed, 2)
    made = optimizers.with_state(optimizer, means[0], seed)
    w = probed("deflated_preconditioned", means, made.rule(), state=made.state(), means=2).grad
    for mean in means:
        assert abs(measures.inner(w, mean)) < 1e-12


@pytest.mark.parametrize("optimizer", ["clip adamw", "adam"])
@given(seed=SEEDS)
def test_what_the_mean_adds_to_any_step_is_worth_nothing(optimizer, seed):
    """-<g, d(mean) - d(0)> = 0, by the values of two problems whose batch's gradient is these."""
    g, (mean,) = vectors(seed, 1)
    made = optimizers.with_state(optimizer, mean, seed)
    theta = trees.zeros_like(mean)
    worth = {}
    for name, gradient in (("mean", mean), ("nothing", trees.zeros_like(mean))):
        problem = vfunc.ValueProblem(
            construct=lambda phi, batch, gradient=gradient: {n: phi[n] * gradient[n] for n in phi},
            pretrain_loss=lambda theta, task: sum((theta[n] * task[n]).sum() for n in theta),
            feedback_loss=lambda theta: sum((theta[n] * g[n]).sum() for n in theta),
            batches=(None,),
            rule=made.rule(),
            state=made.state(),
            means=(mean,),
        )
        phi = {n: torch.ones_like(x) for n, x in mean.items()}
        for value in ("preconditioned", "deflated_preconditioned"):
            found = vfunc.FirstOrder(value)(problem, theta, phi)
            worth[name, value] = float(found.value)
    gained = worth["mean", "deflated_preconditioned"] - worth["nothing", "deflated_preconditioned"]
    plainly = worth["mean", "preconditioned"] - worth["nothing", "preconditioned"]
    assert abs(gained) < 1e-12 < abs(plainly)


@float64
@given(seed=SEEDS, case=st.sampled_from(cases.SMALL))
def test_preconditioned_by_plain_sgd_is_deflated(seed, case):
    made = cases.with_means(cases.situation(case, seed), 2)
    one, other = (ask(made, value, means=2) for value in BOTH)
    assert measures.apart(other.grad, one.grad) <= 1e-8
    assert float(other.value) == pytest.approx(float(one.value), rel=1e-8, abs=1e-14)
    assert one.scale == other.scale


@float64
@pytest.mark.parametrize("value", BOTH)
@pytest.mark.parametrize("rule", [SGD, vfunc.AdamW], ids=["sgd", "adamw"])
def test_a_rate_of_zero_is_the_limit_of_small_ones(value, rule):
    made = cases.with_means(cases.situation("mlp view", 3))
    more = {} if rule is SGD else {"eps": 1e-2}
    still, small = (
        vfunc.FirstOrder(value)(
            replace(made.problem, rule=UpdateRule(rule(rate, **more)), state={}),
            made.theta,
            made.phi,
        )
        for rate in (0.0, 1e-9)
    )
    assert float(still.value) == 0.0 and still.scale == 1.0
    at_rest, moving = (trees.scale(e.grad, 1 / e.scale) for e in (still, small))
    assert measures.apart(at_rest, moving) < 1e-6


@float64
@pytest.mark.parametrize("value", ["dot", "cosine", "preconditioned", *BOTH])
def test_every_value_tells_the_cosine_to_the_means_at_hand(value):
    made = cases.with_means(cases.situation("mlp", 3, "adamw"), 2)
    _, g_down = vfunc.feedback_gradient(made.problem, made.theta)
    told = ask(made, value).diagnostics
    for name, mean in zip(("mean_cosine", "mean_cosine_2"), made.problem.means, strict=True):
        size = measures.size(g_down) * measures.size(mean)
        assert told[name] == pytest.approx(measures.inner(g_down, mean) / size)
    assert ("means_used" in told) == (value in BOTH)
    without = ask(cases.situation("mlp", 3, "adamw"), value).diagnostics
    assert "mean_cosine" not in without
    zero = replace(made.problem, means=(trees.zeros_like(made.theta),))
    assert "mean_cosine" not in ask(replace(made, problem=zero), value).diagnostics


def test_a_feedback_gradient_of_zero_stays_zero():
    _, means = vectors(1, 1)
    for value in BOTH:
        found = probed(value, means, g=trees.zeros_like(means[0]))
        assert float(found.value) == 0 and trees.is_zero(found.grad)


def test_a_gradient_within_the_means_leaves_no_direction_for_any_engine():
    _, means = vectors(2, 1)
    for engine in ("reverse", "forward", "finite_difference"):
        found = probed("deflated", means, g=trees.scale(means[0], 2.0), engine=engine)
        assert trees.is_zero(found.grad) and found.diagnostics["in_span"] == pytest.approx(1)


@pytest.mark.parametrize("value", ["dot", "cosine", "preconditioned"])
@pytest.mark.parametrize("options", [{"means": 2}, {"means": 0}, {"beta": 0.5}])
def test_options_of_the_deflated_values_are_refused_with_others(value, options):
    (name,) = options
    with pytest.raises(vfunc.UserError, match=f"{name} does nothing with value {value}"):
        vfunc.FirstOrder(value, **options)


@pytest.mark.parametrize("options", [{"means": -1}, {"means": 9}, {"means": 1.5}, {"means": True},
                                     {"beta": -0.1}, {"beta": 1.1}, {"beta": float("nan")}])  # fmt: skip
def test_options_out_of_bounds(options):
    with pytest.raises(vfunc.UserError, match=next(iter(options))):
        vfunc.FirstOrder("deflated", **options)


def test_beta_without_means_is_refused():
    with pytest.raises(vfunc.UserError, match="beta does nothing with means 0"):
        vfunc.FirstOrder("deflated", means=0, beta=0.5)


GOOD = {"x": torch.ones(3)}


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ([GOOD], "means must be a tuple of gradients, not a list"),
        (GOOD, "means must be a tuple of gradients, not a dict"),
        ((torch.ones(3),), r"means\[0\] must be a dict of tensors by name, not a Tensor"),
        ((GOOD, {"x": 1.0}), r"means\[1\]\['x'\] must be a tensor of real numbers, not float"),
        (({"x": torch.ones(3, dtype=torch.long)},), "real numbers, not torch.int64"),
        (({"x": torch.ones(3, requires_grad=True)},), "has a graph, .* detach"),
        (({"x": torch.tensor([1.0, float("nan"), 0.0])},), r"means\[0\]\['x'\] is not finite"),
        (({"x": torch.tensor([1.0, float("inf"), 0.0])},), r"means\[0\]\['x'\] is not finite"),
        (({"y": torch.ones(3)},), r"means\[0\].* does not match: missing \['x'\]"),
        ((GOOD, {}), r"means\[1\].* does not match"),
        (({"x": torch.ones(2)},), r"means\[0\].* other shapes"),
        (({"x": torch.ones(3), "z": torch.ones(1)},), r"unexpected \['z'\]"),
    ],
)
def test_means_that_are_none_are_refused_in_a_line(means, said):
    with pytest.raises(vfunc.UserError, match=said):
        problem = vfunc.ValueProblem(
            construct=lambda phi, batch: dict(phi),
            pretrain_loss=lambda theta, task: (theta["x"] * task["c"]).sum(),
            feedback_loss=lambda theta: theta["x"].sum(),
            batches=(None,),
            rule=UpdateRule(SGD(0.1)),
            means=means,
        )
        vfunc.FirstOrder("deflated")(problem, {"x": torch.zeros(3)}, {"c": torch.ones(3)})


def test_the_means_of_a_problem_are_not_changed():
    _, means = vectors(6, 2, torch.float32)
    before = [{n: x.clone() for n, x in mean.items()} for mean in means]
    for value in BOTH:
        probed(value, means, means=2)
    for mean, kept in zip(means, before, strict=True):
        assert all(torch.equal(mean[n], kept[n]) for n in kept)
