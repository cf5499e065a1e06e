"""What the implicit estimator refuses, reports and spends."""

from __future__ import annotations

from dataclasses import replace

import cases
import measures
import pytest
import torch

import vfunc
from vfunc.estimators.curvature import DampedCurvature
from vfunc.estimators.proximal import solve_proximal
from vfunc.pullback import Passes, product
from vfunc.pullback.gauss_newton import GaussNewton
from vfunc.simulate import SGD, UpdateRule
from vfunc.solvers import SOLVERS, ConjugateGradient

pytestmark = pytest.mark.usefixtures("float64")


def implicit(**options):
    """The estimator by its options' names, as the command line gives them."""
    return vfunc.make_estimator("implicit", options)


def saddle(tilt):
    """L_pre = (x y - c)^2 / 2: at x = y = 0 the gradient is zero, the Hessian [[0, -c], [-c, 0]].

    Its Gauss-Newton matrix is zero there. `tilt` moves the point off the saddle.
    """

    def outputs(theta, task):
        return theta["x"] * theta["y"]

    def loss(z, task):
        return 0.5 * (z - task["c"]) ** 2

    composite = vfunc.CompositeForm(outputs, loss)
    return (
        vfunc.ValueProblem(
            construct=lambda phi, batch: {"c": torch.exp(phi["c"])},
            pretrain_loss=lambda theta, task: loss(outputs(theta, task), task),
            feedback_loss=lambda theta: (theta["x"] - 2) ** 2 + (theta["y"] - 1) ** 2,
            batches=(None,),
            rule=UpdateRule(SGD(0.1)),
            composite=composite,
        ),
        {"x": torch.tensor(tilt), "y": torch.tensor(tilt / 2)},
        {"c": torch.tensor(0.5)},
    )


@pytest.mark.parametrize("solver", [kind() for kind in SOLVERS.values()], ids=list(SOLVERS))
def test_an_adjoint_at_a_saddle_is_refused_and_gauss_newton_advised(solver):
    problem, theta, phi = saddle(0.0)
    with pytest.raises(vfunc.NotConvergedError) as raised:
        vfunc.Implicit(damping=0.5, solver=solver)(problem, theta, phi)
    assert "raise the damping, or take --curvature gauss_newton" in str(raised.value)
    bare = replace(problem, composite=None)
    with pytest.raises(vfunc.NotConvergedError) as raised:
        vfunc.Implicit(damping=0.5, solver=solver)(bare, theta, phi)
    assert "gauss_newton" not in str(raised.value)
    convex = vfunc.Implicit(damping=0.5, solver=solver, curvature="gauss_newton")
    assert convex(problem, theta, phi).diagnostics["smallest_curvature"] == pytest.approx(0.5)
    # enough damping cures it too
    damped = vfunc.Implicit(damping=5.0, solver=solver)(problem, theta, phi)
    assert damped.diagnostics["negative_curvature"] is False


def test_negative_curvature_on_the_way_is_reported_and_passed():
    """Newton leaves the saddle's neighbourhood for the minimum; the value there is exact."""
    problem, theta, phi = saddle(0.1)
    ask = vfunc.Implicit(damping=0.05, solver_tolerance=1e-12)
    estimate = ask(problem, theta, phi)
    assert estimate.diagnostics["negative_curvature"] is True
    assert estimate.diagnostics["smallest_curvature"] < 0
    assert estimate.approximations == ()
    slope = measures.slope(
        lambda h: float(ask(problem, theta, {"c": phi["c"] + h}).objective), step=1e-3
    )
    assert float(estimate.grad["c"]) == pytest.approx(slope, rel=1e-7)
    assert abs(slope) > 0.1
    safe = vfunc.Implicit(damping=1.0, solver_tolerance=1e-3, curvature="gauss_newton")
    assert safe(problem, theta, phi).diagnostics["negative_curvature"] is False


def hidden_saddle():
    """Even in y throughout: no gradient, and no product of one, leaves y = 0, where C is (1, -4)."""
    return (
        vfunc.ValueProblem(
            construct=lambda phi, batch: {"c": phi["c"]},
            pretrain_loss=lambda theta, task: (
                (theta["x"] - task["c"]) ** 2 / 2 - 2 * theta["y"] ** 2 + theta["y"] ** 4
            ),
            feedback_loss=lambda theta: (theta["x"] - 2) ** 2 + theta["y"] ** 2,
            batches=(None,),
            rule=UpdateRule(SGD(0.1)),
        ),
        {"x": torch.tensor(0.0), "y": torch.tensor(0.0)},
        {"c": torch.tensor(0.4)},
    )


@pytest.mark.parametrize("solver", [kind() for kind in SOLVERS.values()], ids=list(SOLVERS))
def test_a_saddle_that_no_gradient_leaves_is_refused(solver):
    problem, theta, phi = hidden_saddle()
    for seed in range(5):
        drawn = replace(problem, seed=seed)
        with pytest.raises(vfunc.NotConvergedError, match="met a direction of negative curvature"):
            vfunc.Implicit(damping=1.0, solver=solver)(drawn, theta, phi)
    enough = vfunc.Implicit(damping=5.0, solver=solver)(problem, theta, phi)
    assert enough.diagnostics["negative_curvature"] is False


def test_without_a_probe_cg_claims_no_more_than_it_met():
    """The smallest curvature met, 2 along x, is an upper bound of the smallest, -3 along y."""
    problem, theta, phi = hidden_saddle()
    estimate = vfunc.Implicit(damping=1.0, solver=ConjugateGradient(probe_steps=0))(
        problem, theta, phi
    )
    assert estimate.diagnostics["smallest_curvature"] == pytest.approx(2.0)


def test_the_probe_costs_its_products_and_none_where_curvature_is_positive_by_construction():
    made = cases.situation("mlp", 7)

    def spent(**options):
        ask = implicit(damping=10.0, engine="forward", **options)
        return ask(made.problem, made.theta, made.phi).diagnostics["tangents"]

    plain = spent(probe_steps=0)
    assert [spent(probe_steps=k) - plain for k in (1, 3)] == [1, 3]
    assert spent() == plain + 3
    positive = {"curvature": "gauss_newton"}
    assert spent(**positive) == spent(probe_steps=0, **positive)


@pytest.mark.parametrize("damping", [1.0, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("start", [0.5, 1.5, 4.0])
def test_the_tolerance_holds_for_the_optimum_at_small_dampings_too(start, damping):
    """Curvatures from 1 to next to none: a gradient that is small says little of the distance."""
    flat = torch.tensor([1.0, 1e-2, 1e-4])
    center = torch.tensor([start, 1.0, -1.0])
    problem = vfunc.ValueProblem(
        construct=lambda phi, batch: {"c": phi["c"]},
        pretrain_loss=lambda theta, task: (
            flat * ((theta["x"] - task["c"]) ** 2 / 2 + (theta["x"] - task["c"]) ** 4 / 4)
        ).sum(),
        feedback_loss=lambda theta: theta["x"].sum(),
        batches=(None,),
        rule=UpdateRule(SGD(0.1)),
    )
    theta, phi = {"x": center}, {"c": torch.zeros(3)}
    solution = solve_proximal(
        problem,
        theta,
        vfunc.construct_task(problem, phi, None),
        damping,
        1e-3,
        max_iterations=60,
        curvature_at=lambda theta: DampedCurvature(
            lambda x: ({"x": flat * (1 + 3 * theta["x"] ** 2) * x["x"]}, Passes(), ""),
            damping,
            Passes(),
        ),
    )
    # the root of flat (x + x^3) + damping (x - center), a number at a time, by bisection
    low, high = torch.minimum(center, torch.zeros(3)), torch.maximum(center, torch.zeros(3))
    for _ in range(80):
        middle = (low + high) / 2
        above = flat * (middle + middle**3) + damping * (middle - center) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    gone = float((center - low).norm())
    assert float((solution.theta["x"] - low).norm()) <= 1e-3 * gone


def test_a_loose_tolerance_is_an_approximation_by_what_it_leaves():
    made = cases.situation("layernorm view", 2)
    exact = vfunc.Implicit(damping=5.0)(made.problem, made.theta, made.phi)
    assert exact.approximations == ()
    estimate = vfunc.Implicit(damping=5.0, solver_tolerance=0.1)(made.problem, made.theta, made.phi)
    assert measures.apart(estimate.grad, exact.grad) > 1e-3
    notes = estimate.diagnostics
    assert estimate.approximations == (
        f"proximal problem solved loosely: a relative gradient of {notes['inner_gap']:.1e} remains",
        "adjoint solved loosely by cg: a relative residual of "
        f"{notes['adjoint_residual']:.1e} remains",
    )


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_finite_differences_are_an_approximation(curvature):
    made = cases.situation("mlp view", 3)
    ask = vfunc.Implicit(
        damping=10.0, curvature=curvature, engine="finite_difference", solver_tolerance=1e-9
    )
    estimate = ask(made.problem, made.theta, made.phi)
    assert f"{estimate.diagnostics['fd_disagreement']:.1e}" in estimate.approximations[-1]
    assert "finite differences" in estimate.approximations[-1]
    without = replace(made.problem, no_second_order="its kernels have none")
    chosen = replace(ask, engine="auto")(without, made.theta, made.phi)
    assert chosen.diagnostics["engine"] == "finite_difference"
    assert chosen.approximations == estimate.approximations


def test_a_schedule_at_zero_asks_for_a_damping():
    made = cases.situation("mlp", 1)
    still = replace(made.problem, rule=UpdateRule(SGD(0.0)))
    with pytest.raises(vfunc.UserError, match=r"1 / eta, and eta is 0 here; give --damping"):
        vfunc.Implicit()(still, made.theta, made.phi)
    vfunc.Implicit(damping=10.0)(still, made.theta, made.phi)


@pytest.mark.parametrize("modelled", [0.2, 1.0, 4.0])
def test_where_the_objective_is_lost_in_rounding_the_line_search_goes_by_slopes(modelled):
    """A curvature modelled as 0.2 of the true one makes steps that overshoot by a factor of 4."""
    true = torch.tensor([1.0, 2.0])
    problem = vfunc.ValueProblem(
        construct=lambda phi, batch: {"c": phi["c"]},
        pretrain_loss=lambda theta, task: 1e12 + 0.5 * (true * (theta["x"] - task["c"]) ** 2).sum(),
        feedback_loss=lambda theta: theta["x"].sum(),
        batches=(None,),
        rule=UpdateRule(SGD(0.1)),
    )
    phi, theta = {"c": torch.ones(2)}, {"x": torch.zeros(2)}
    solution = solve_proximal(
        problem,
        theta,
        vfunc.construct_task(problem, phi, None),
        0.1,
        1e-9,
        max_iterations=60,
        curvature_at=lambda theta: DampedCurvature(
            lambda x: ({"x": modelled * true * x["x"]}, Passes(), ""), 0.1, Passes()
        ),
    )
    assert solution.gap <= 1e-9
    torch.testing.assert_close(solution.theta["x"], true / (true + 0.1), rtol=1e-8, atol=0)
    assert solution.iterations == 1 if modelled == 1.0 else solution.iterations < 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curvature": "fisher"}, "unknown curvature 'fisher'; known: hessian, gauss_newton"),
        ({"solver": "lu"}, "unknown solver 'lu'; known: cg, neumann, nystrom, dense"),
        ({"precondition": "diagonal"}, "unknown precondition 'diagonal'; known: none, optimizer"),
        ({"nystrom_rank": 3}, "nystrom_rank is for the solver nystrom, not for cg"),
        (
            {"solver": "nystrom", "nystrom_rank": 0},
            r"rank \(--nystrom-rank\) must be at least 1, not 0",
        ),
        ({"solver": "dense", "solver_steps": 3}, "solver_steps is for the solvers cg and neumann"),
        ({"solver": "nystrom", "solver_steps": 3}, "not for nystrom"),
        ({"solver_steps": 0}, r"steps \(--solver-steps\) must be at least 1, not 0"),
        ({"probe_steps": -1}, "probe_steps must be at least 0, not -1"),
        ({"inner_steps": 0}, "inner_steps must be at least 1, not 0"),
        ({"solver": "dense", "precondition": "optimizer"}, "precondition is for the solver cg"),
        ({"solver_tolerance": 1.0}, "solver_tolerance must be above 0 and below 1, not 1"),
        (
            {"solver_tolerance": 0.1, "solver_steps": 2, "inner_steps": 2},
            "solver_tolerance does nothing where both step counts are given",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(vfunc.UserError, match=message):
        implicit(**options)


def test_what_the_problem_lacks_is_refused():
    made = cases.situation("mlp", 1)
    bare = replace(made.problem, composite=None)
    with pytest.raises(vfunc.UserError, match="declares no `composite` form; take curvature"):
        vfunc.Implicit(curvature="gauss_newton")(bare, made.theta, made.phi)
    with pytest.raises(vfunc.UserError, match="the learner's optimizer is SGD, which has none"):
        vfunc.Implicit(solver=ConjugateGradient(precondition="optimizer"))(
            made.problem, made.theta, made.phi
        )
    vfunc.Implicit(solver=ConjugateGradient(precondition="none"))(
        made.problem, made.theta, made.phi
    )


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@pytest.mark.parametrize(
    "options",
    [
        {"solver": "cg"},
        {"solver": "cg", "solver_steps": 2, "inner_steps": 1},
        {"solver": "neumann"},
        {"solver": "nystrom", "nystrom_rank": 3},
        {"solver": "dense"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_passes_are_what_was_spent(options, curvature, monkeypatch):
    # looked for once for each piece of code, and not a part of an estimate
    looks = ("require_no_stop_gradient", "require_custom_derivatives", "require_tangent")
    for look in looks:
        monkeypatch.setattr(product, look, lambda *given: None)
    monkeypatch.setattr(GaussNewton, "_require_transposed", lambda self, outputs: None)
    made = cases.situation("mlp", 7)
    forwards, backwards = [], []
    real = torch.autograd.grad

    def noting(function):
        def call(*args):
            forwards.append(function)
            return function(*args)

        return call

    def grad(outputs, *args, **kwargs):
        # functional transforms and the designer's own product pass several outputs
        if isinstance(outputs, torch.Tensor):
            backwards.append(outputs)
        return real(outputs, *args, **kwargs)

    problem = replace(
        made.problem,
        pretrain_loss=noting(made.problem.pretrain_loss),
        feedback_loss=noting(made.problem.feedback_loss),
        linear=vfunc.LinearForm("q", noting(made.problem.linear.coefficients)),
        composite=vfunc.CompositeForm(
            noting(made.problem.composite.outputs), made.problem.composite.loss
        ),
    )
    monkeypatch.setattr(torch.autograd, "grad", grad)
    for engine in ("auto", "finite_difference"):
        forwards.clear()
        backwards.clear()
        loose = {} if "inner_steps" in options else {"solver_tolerance": 1e-6}
        spent = implicit(damping=10.0, curvature=curvature, engine=engine, **options, **loose)(
            problem, made.theta, made.phi
        ).diagnostics
        assert spent["forwards"] + spent["tangents"] == len(forwards), engine
        assert spent["backwards"] == len(backwards), engine


@pytest.mark.parametrize(("bend", "kinked"), [(torch.abs, True), (torch.square, False)])
def test_a_minimum_on_a_kink_says_so(bend, kinked):
    """|theta| + (damping / 2) (theta - theta_t)^2 has its minimum at the kink."""
    problem = vfunc.ValueProblem(
        lambda phi, batch: {"c": phi["c"]},
        lambda theta, task: task["c"].sum() * bend(theta["w"]).sum(),
        lambda theta: (theta["w"] - 1).square().sum(),
        (None,),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
    )
    theta, phi = {"w": torch.tensor([0.3, 2.0])}, {"c": torch.ones(1)}
    ask = vfunc.Implicit(damping=1.0, max_iterations=8)
    if not kinked:
        ask(problem, theta, phi)
        return
    with pytest.raises(vfunc.errors.NotConvergedError, match="it has stopped on a kink"):
        ask(problem, theta, phi)
