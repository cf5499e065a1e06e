"""What estimators report: values, units, passes, notes, and errors."""

from __future__ import annotations

from dataclasses import replace

import cases
import measures
import pytest
import torch
from conformance import ALL
from hypothesis import given
from hypothesis import strategies as st

import vfunc
from vfunc.simulate import SGD, AdamW, UpdateRule

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 10_000)


def plain(made):
    """(eta V, g_down, g_pre) by hand."""
    task = made.problem.construct(made.phi, made.problem.batches[0])
    g_pre = vfunc.pretrain_gradient(made.problem, made.theta, task)
    _, g_down = vfunc.feedback_gradient(made.problem, made.theta)
    return made.optimizer.lr * measures.inner(g_down, g_pre), g_down, g_pre


@pytest.mark.parametrize(("name", "options"), ALL)
@given(seed=SEEDS, case=st.sampled_from(cases.SMALL))
def test_value_objective_and_scale(name, options, seed, case):
    made = cases.situation(case, seed)
    more = {"series": True} if name == "unrolled" else {}
    estimate = vfunc.make_estimator(name, options | more)(made.problem, made.theta, made.phi)
    v, g_down, g_pre = plain(made)
    eta = made.optimizer.lr
    cosine = measures.inner(g_down, g_pre) / measures.size(g_down) / measures.size(g_pre)
    fresh = "mean_batches" in options  # means that phi makes: tests/estimators/test_next_batches.py
    if name in ("first_order", "random", "zero") and not fresh:
        assert float(estimate.value) == pytest.approx(v, rel=1e-9)
    objective, scale = {
        "first_order": (cosine if options.get("value") == "cosine" else v, eta),
        "unrolled": (float(estimate.value), eta * options.get("lookahead_steps", 1)),
        "implicit": (float(estimate.value), 0.1),
        "random": (float(estimate.objective), 1.0),
        "zero": (0.0, 1.0),
    }[name]
    assert fresh or float(estimate.objective) == pytest.approx(objective, rel=1e-9)
    assert estimate.scale == pytest.approx(1.0 if options.get("value") == "cosine" else scale)
    assert estimate.diagnostics["g_down_norm"] == pytest.approx(measures.size(g_down))
    assert estimate.grad.keys() == made.phi.keys()
    assert all(estimate.grad[n].shape == x.shape for n, x in made.phi.items())
    if "cosine" in estimate.diagnostics:
        assert estimate.diagnostics["cosine"] == pytest.approx(cosine)
        assert estimate.diagnostics["g_pre_norm"] == pytest.approx(measures.size(g_pre))


def test_the_scale_keeps_the_designer_s_step_whatever_the_schedule_says():
    made = cases.situation("mlp", 1)
    for name, options in ALL[:2]:
        ask = vfunc.make_estimator(name, options)
        big, small = (
            ask(replace(made.problem, rule=UpdateRule(SGD(eta))), made.theta, made.phi)
            for eta in (0.1, 1e-4)
        )
        one = {n: g / big.scale for n, g in big.grad.items()}
        two = {n: g / small.scale for n, g in small.grad.items()}
        assert measures.apart(one, two) <= 1e-9


@given(seed=SEEDS)
def test_each_parameter_group_has_its_own_eta(seed):
    made = cases.situation("layernorm", 3 * seed)
    rules = {n: SGD(0.1 if n.startswith("head") else 0.02) for n in made.theta}
    problem = replace(made.problem, rule=UpdateRule(rules))
    first = vfunc.FirstOrder()(problem, made.theta, made.phi)
    stepped = vfunc.FirstOrder("preconditioned")(problem, made.theta, made.phi)
    assert float(first.value) == pytest.approx(float(stepped.value), rel=1e-9)
    assert measures.apart(first.grad, stepped.grad) <= 1e-9
    assert first.scale == 0.1


@given(seed=SEEDS, case=st.sampled_from(cases.SMALL))
def test_unrolled_splits_its_value(seed, case):
    made = cases.situation(case, seed, "adamw")
    notes = vfunc.Unrolled(2, series=True)(made.problem, made.theta, made.phi)
    first = notes.diagnostics["first_order_value"]
    assert float(notes.value) == pytest.approx(first + notes.diagnostics["second_order_actual"])
    one = vfunc.Unrolled(1, series=True)(made.problem, made.theta, made.phi).diagnostics
    stepped = vfunc.FirstOrder("preconditioned")(made.problem, made.theta, made.phi)
    assert one["first_order_value"] == pytest.approx(float(stepped.value), rel=1e-9)


@given(seed=SEEDS, case=st.sampled_from(cases.SMALL))
def test_the_split_changes_nothing_else(seed, case):
    made = cases.situation(case, seed, "adamw")
    plain, split = (
        vfunc.Unrolled(2, series=series)(made.problem, made.theta, made.phi)
        for series in (False, True)
    )
    assert float(plain.value) == float(split.value)
    assert measures.apart(plain.grad, split.grad) == 0
    more = {"g_down_norm", "first_order_value", "second_order_predicted", "second_order_actual"}
    assert split.diagnostics.keys() - plain.diagnostics.keys() == more
    assert plain.diagnostics["backwards"] == split.diagnostics["backwards"] - 1


def test_lookahead_names_every_engine_that_it_used():
    made = cases.situation("mlp", 0)
    one = vfunc.Unrolled(1)(made.problem, made.theta, made.phi).diagnostics
    three = vfunc.Unrolled(3)(made.problem, made.theta, made.phi).diagnostics
    assert one["engine"] == "linear"
    assert three["engine"] == "reverse, linear"
    assert "no Hessian-vector product" in three["engine_why"]
    assert "linear in the targets" in three["engine_why"]


def test_random_is_fixed_by_the_problem_s_seed_alone():
    made = cases.situation("mlp", 2)
    ask = vfunc.RandomDirection()

    def at(seed):
        return ask(replace(made.problem, seed=seed), made.theta, made.phi)

    torch.manual_seed(0)
    one = at(3)
    torch.manual_seed(1)
    two, other = at(3), at(4)
    assert torch.equal(one.objective, two.objective)
    assert all(torch.equal(one.grad[n], two.grad[n]) for n in one.grad)
    assert not torch.equal(one.objective, other.objective)


def test_random_has_the_norm_of_the_feedback_gradient():
    """By Cauchy's inequality with equality: a loss that is linear in theta gives back w."""
    theta, phi = {"x": torch.zeros(6)}, {"c": torch.ones(6)}
    g_down = torch.arange(6.0)
    problem = vfunc.ValueProblem(
        construct=lambda phi, batch: {"c": phi["c"]},
        pretrain_loss=lambda theta, task: (theta["x"] * task["c"]).sum(),
        feedback_loss=lambda theta: g_down @ theta["x"],
        batches=(None,),
        rule=UpdateRule(SGD(0.1)),
        seed=5,
    )
    w = vfunc.RandomDirection()(problem, theta, phi).grad["c"]
    assert float(w.norm()) == pytest.approx(float(g_down.norm()))
    assert abs(float(w @ g_down)) < 0.99 * float(g_down.norm()) ** 2


def test_zero_leaves_the_designer():
    made = cases.situation("mlp", 2)
    estimate = vfunc.Zero()(made.problem, made.theta, made.phi)
    assert measures.size(estimate.grad) == 0
    assert float(estimate.objective) == 0


@pytest.mark.parametrize(("name", "options"), ALL)
def test_a_designer_that_ignores_phi_has_no_gradient(name, options):
    made = cases.situation("mlp", 2)
    fixed = made.problem.construct(made.phi, made.problem.batches[0])
    problem = replace(made.problem, construct=lambda phi, batch: dict(fixed))
    for engine in (
        (None,) if name == "zero" else ("auto", "reverse", "forward", "finite_difference")
    ):
        chosen = options if engine is None else options | {"engine": engine}
        estimate = vfunc.make_estimator(name, chosen)(problem, made.theta, made.phi)
        assert measures.size(estimate.grad) == 0
        assert torch.isfinite(estimate.value)


def test_lookahead_needs_as_many_batches():
    made = cases.situation("mlp", 2)
    with pytest.raises(vfunc.UserError, match=r"lookahead_steps 5 needs as many .* has 4"):
        vfunc.Unrolled(5)(made.problem, made.theta, made.phi)
    with pytest.raises(vfunc.UserError, match="needs at least one unlabeled batch"):
        replace(made.problem, batches=())


def test_lookahead_reads_every_batch_in_turn():
    """A batch past the first must count, and its order too."""
    made = cases.situation("mlp", 6, "momentum")
    order = made.problem.batches

    def grad(*indices):
        problem = replace(made.problem, batches=tuple(order[i] for i in indices))
        return vfunc.Unrolled(2)(problem, made.theta, made.phi).grad

    assert measures.apart(grad(0, 1), grad(0, 0)) > 1e-3
    assert measures.apart(grad(0, 1), grad(1, 0)) > 1e-6


def test_implicit_says_that_it_did_not_converge():
    made = cases.situation("mlp", 2)
    ask = vfunc.Implicit(damping=0.5, solver_tolerance=1e-11, max_iterations=1)
    with pytest.raises(vfunc.NotConvergedError, match="raise --damping or --solver-tolerance"):
        ask(made.problem, made.theta, made.phi)


def test_implicit_damping_defaults_to_one_over_eta():
    made = cases.situation("mlp", 2)
    default = vfunc.Implicit()(made.problem, made.theta, made.phi)
    assert default.diagnostics["damping"] == pytest.approx(10.0)
    assert default.scale == pytest.approx(0.1)
    given_ = vfunc.Implicit(damping=10.0)(made.problem, made.theta, made.phi)
    assert measures.apart(given_.grad, default.grad) <= 1e-9
    looser = vfunc.Implicit(damping=10.0, solver_tolerance=1e-3)
    notes = looser(made.problem, made.theta, made.phi).diagnostics
    assert 1e-9 < notes["inner_gap"] <= 1e-3
    assert notes["adjoint_iterations"] < default.diagnostics["adjoint_iterations"]


def test_notes_of_the_simulated_step_reach_the_diagnostics():
    made = cases.situation("mlp", 2, "clip adamw")
    for ask in (vfunc.FirstOrder("preconditioned"), vfunc.Unrolled()):
        notes = ask(made.problem, made.theta, made.phi).diagnostics
        assert notes["clip_outside_held"] is True
        assert notes["window_incomplete"] is False


def in_single(made):
    """(problem, theta, phi) with theta and phi in float32."""
    theta, phi = ({n: x.float() for n, x in p.items()} for p in (made.theta, made.phi))
    wide = made.problem

    # the constants of the case are float64: take the parameters up at the learner's door
    problem = replace(
        wide,
        construct=lambda phi, batch: wide.construct({n: x.double() for n, x in phi.items()}, batch),
        pretrain_loss=lambda t, c: wide.pretrain_loss({n: x.double() for n, x in t.items()}, c),
        feedback_loss=lambda t: wide.feedback_loss({n: x.double() for n, x in t.items()}),
    )
    return problem, theta, phi


def test_single_precision_agrees_with_double():
    made = cases.situation("mlp view", 9)
    problem, theta, phi = in_single(made)
    problem = replace(problem, rule=UpdateRule(AdamW(0.01, eps=1e-3)))
    for name, options in ALL[:5]:
        got = vfunc.make_estimator(name, options)(problem, theta, phi)
        want = vfunc.make_estimator(name, options)(problem, made.theta, made.phi)
        assert all(g.dtype == torch.float32 for g in got.grad.values())
        assert measures.apart({n: g.double() for n, g in got.grad.items()}, want.grad) < 1e-4


@pytest.mark.parametrize("size", [1e-22, 1e22])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("first_order", {}),
        ("first_order", {"value": "cosine"}),
        ("first_order", {"engine": "finite_difference"}),
        ("random", {}),
    ],
)
def test_feedback_gradients_whose_squares_leave_single_precision(name, options, size):
    """The estimate is as many times larger; the cosine is the same."""
    made = cases.situation("mlp view", 9)
    problem, theta, phi = in_single(made)
    loss = problem.feedback_loss
    scaled = replace(problem, feedback_loss=lambda theta: size * loss(theta))
    got = vfunc.make_estimator(name, options)(scaled, theta, phi)
    want = vfunc.make_estimator(name, options)(made.problem, made.theta, made.phi)
    times = 1.0 if options.get("value") == "cosine" else size
    grad = {n: g.double() / times for n, g in got.grad.items()}
    assert measures.apart(grad, want.grad) < 1e-3
    if times == 1.0:
        cosine = float(want.objective)
        assert float(got.objective) == pytest.approx(cosine, rel=1e-5)
        assert got.diagnostics["cosine"] == pytest.approx(cosine, rel=1e-5)


@pytest.mark.parametrize("name", ["pretrain_loss", "feedback_loss"])
def test_a_loss_that_is_no_scalar_is_refused_by_name(name):
    made = cases.situation("mlp", 0)
    loss = getattr(made.problem, name)
    broken = replace(made.problem, **{name: lambda *args: loss(*args).expand(2)})
    with pytest.raises(vfunc.UserError, match=rf"{name} returned a tensor of shape \(2,\)"):
        vfunc.FirstOrder("cosine")(broken, made.theta, made.phi)


@pytest.mark.parametrize("case", ["mlp", "layernorm"])
def test_an_implicit_solve_that_rounding_stalls_gives_up_early(case):
    made = cases.situation(case, 0)
    estimator = vfunc.Implicit(10.0, solver_tolerance=1e-18, max_iterations=50)
    with pytest.raises(vfunc.NotConvergedError, match=r"after (\d|1\d) Newton steps"):
        estimator(made.problem, made.theta, made.phi)
