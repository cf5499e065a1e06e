"""Choosing an engine, and what each one does."""

from __future__ import annotations

import re
from dataclasses import replace

import cases
import measures
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import vfunc
from vfunc.pullback import DIFFERENCES, ENGINES, FiniteDifference, ProductRequest, choose_engine
from vfunc.pullback.finite_difference import step_length
from vfunc.pullback.gauss_newton import GaussNewton

pytestmark = pytest.mark.usefixtures("float64")

LINEAR = vfunc.LinearForm("q", lambda theta, task: task["q"])


def asked(engine, linear, designed, *, hessian=False, no_second_order=None):
    """The choice for a problem of that form, of which nothing is computed."""
    made = cases.situation("mlp", 0)
    problem = replace(made.problem, linear=linear, no_second_order=no_second_order)
    request = ProductRequest(problem, made.theta, {}, designed, made.theta, hessian)
    return choose_engine(engine, request)


@pytest.mark.parametrize(
    ("linear", "designed", "hessian", "name", "why"),
    [
        (LINEAR, ("q",), False, "linear", "the objective is linear in the targets"),
        (LINEAR, ("q", "x"), False, "reverse", r"also makes \['x'\]"),
        (LINEAR, ("q",), True, "reverse", "no Hessian-vector product"),
        (None, ("q",), False, "reverse", "declares no `linear` form"),
    ],
)
def test_auto_says_why(linear, designed, hessian, name, why):
    chosen = asked("auto", linear, designed, hessian=hessian)
    assert chosen.engine.name == name
    assert chosen.why.startswith("auto: ")
    assert re.search(why, chosen.why)


@pytest.mark.parametrize(
    ("linear", "designed", "hessian", "why"),
    [
        (LINEAR, ("x", "q"), False, r"also makes \['x'\], in which the objective is not linear"),
        (LINEAR, ("q",), True, "no Hessian-vector product"),
        (None, ("q",), False, "declares no `linear` form"),
    ],
)
def test_linear_refuses_what_it_cannot_do(linear, designed, hessian, why):
    with pytest.raises(vfunc.UserError, match="the engine 'linear' does not apply here: .*" + why):
        asked("linear", linear, designed, hessian=hessian)


@pytest.mark.parametrize("hessian", [False, True])
def test_kernels_without_second_order_leave_finite_differences_alone(hessian):
    reason = "flash attention has neither a forward mode nor a double backward"
    chosen = asked("auto", LINEAR, ("q",), hessian=hessian, no_second_order=reason)
    assert (chosen.engine.name, chosen.why) == ("finite_difference", f"auto: {reason}")
    for name in ("forward", "reverse") if hessian else ("linear", "forward", "reverse"):
        with pytest.raises(vfunc.UserError, match=f"{name}.*{reason}; finite_difference does"):
            asked(name, LINEAR, ("q",), hessian=hessian, no_second_order=reason)
    chosen = asked("finite_difference", LINEAR, ("q",), no_second_order=reason)
    assert chosen.why == "asked for"


def test_an_unknown_engine_lists_the_known():
    with pytest.raises(vfunc.UserError, match="unknown engine 'revers'; known: auto, linear") as r:
        asked("revers", None, ())
    assert all(name in str(r.value) for name in ENGINES)


def test_unrolled_over_several_steps_refuses_the_linear_engine():
    made = cases.situation("mlp", 0)
    with pytest.raises(vfunc.UserError, match="'linear' does not apply here"):
        vfunc.Unrolled(2, engine="linear")(made.problem, made.theta, made.phi)


def test_an_engine_object_is_taken_as_it_is():
    made = cases.situation("mlp view", 0)
    engine = FiniteDifference(step=1e-2)
    notes = vfunc.FirstOrder(engine=engine)(made.problem, made.theta, made.phi).diagnostics
    assert notes["fd_step"] == 1e-2
    assert notes["engine"] == "finite_difference"


@pytest.mark.parametrize(("error_estimate", "order"), [(False, 2), (True, 4)])
def test_finite_difference_error_falls_with_a_power_of_its_step(error_estimate, order):
    made = cases.situation("mlp view", 0)
    exact = vfunc.FirstOrder(engine="reverse")(made.problem, made.theta, made.phi).grad
    errors = []
    for h in (4e-2, 2e-2, 1e-2):
        engine = FiniteDifference(step=h, error_estimate=error_estimate)
        got = vfunc.FirstOrder(engine=engine)(made.problem, made.theta, made.phi).grad
        errors.append(measures.apart(got, exact))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(2**order, rel=0.05)


@pytest.mark.parametrize("hessian", [False, True])
def test_finite_difference_says_how_far_two_steps_are_apart(hessian):
    """Three times the truncation error of the shorter one, at the worse of task and Hessian."""
    made = cases.situation("mlp view", 0)
    construction = vfunc.construct_task(made.problem, made.phi, made.problem.batches[0])
    _, w = vfunc.feedback_gradient(made.problem, made.theta)

    def by(engine):
        product = vfunc.pullback.mixed_product(
            made.problem, made.theta, construction, w, engine, hessian=hessian
        )
        return product

    exact, step = by("reverse"), 1e-2
    plain = by(FiniteDifference(step=step, error_estimate=False))
    checked = by(FiniteDifference(step=step))
    truncation = [measures.apart(dict(plain.task), dict(exact.task))]
    if hessian:
        truncation.append(measures.apart(plain.hessian, exact.hessian))
    assert checked.diagnostics["fd_disagreement"] == pytest.approx(3 * max(truncation), rel=0.05)
    assert "fd_disagreement" not in plain.diagnostics
    assert checked.passes == plain.passes + plain.passes
    repeated = vfunc.pullback.mixed_product(
        made.problem, made.theta, construction, w, FiniteDifference(step=step), repeated=True
    )
    assert "fd_disagreement" not in repeated.diagnostics


def test_finite_difference_refuses_steps_that_disagree():
    """A kink of the size of the step: neither of two differences is a derivative."""
    made = cases.situation("mlp view", 0)

    def kinked(theta, task):
        return sum((x.abs() * task["x"].square().sum()).sum() for x in theta.values())

    problem = replace(made.problem, pretrain_loss=kinked)
    theta = {n: 1.5e-3 * x.sign() for n, x in made.theta.items()}
    far = vfunc.FirstOrder(engine=FiniteDifference(step=1e-2))
    with pytest.raises(
        vfunc.NotConvergedError, match=r"disagree by .*use the engine reverse or li"
    ):
        far(problem, theta, made.phi)
    exact = vfunc.FirstOrder(engine="reverse")(problem, theta, made.phi).grad
    near = vfunc.FirstOrder(engine=FiniteDifference(step=1e-4))(problem, theta, made.phi)
    assert measures.apart(near.grad, exact) < 1e-9


def wide_network(dtype, n=64):
    """(problem, theta, phi): a network of n hidden units, theta in `dtype`, all else in float32."""
    draw = measures.generator(0)
    theta = {
        "a": measures.normal(draw, n, n) / n**0.5,
        "b": measures.normal(draw, 8, n) / n**0.5,
    }
    x, fx = (measures.normal(draw, 16, n).float() for _ in range(2))
    labels = torch.randint(0, 8, (16,), generator=draw)
    phi = {"r": 0.05 * measures.normal(draw, n, 8).float()}

    def log_p(theta, x):
        h = torch.tanh(x.to(theta["a"].dtype) @ theta["a"].T)
        return torch.log_softmax((h @ theta["b"].T).float(), -1)

    problem = vfunc.ValueProblem(
        lambda phi, x: {"x": x, "q": torch.softmax(x @ phi["r"], -1)},
        lambda theta, task: -(task["q"] * log_p(theta, task["x"])).sum() / 16,
        lambda theta: torch.nn.functional.nll_loss(log_p(theta, fx), labels),
        (x,),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
        composite=vfunc.CompositeForm(
            lambda theta, task: log_p(theta, task["x"]),
            lambda z, task: -(task["q"] * z).sum() / 16,
        ),
    )
    return problem, {name: p.to(dtype) for name, p in theta.items()}, phi


@pytest.mark.parametrize("hessian", [False, True])
@pytest.mark.parametrize(
    ("dtype", "step", "said"),
    [
        (torch.bfloat16, 1e-2, "bfloat16 rounds .* of a step of 1.0e-02 away"),
        (torch.float16, 1e-3, "float16 rounds .* of a step of 1.0e-03 away"),
        (torch.float32, 1e-7, "float32 rounds .* of a step of 1.0e-07 away"),
        (torch.float32, 2.5e-3, None),
    ],
)
def test_finite_difference_refuses_a_step_that_rounds_away(dtype, step, said, hessian):
    """Both sides are theta itself then: a gradient of zero, and two step sizes that agree."""
    problem, theta, phi = wide_network(dtype)
    engine = FiniteDifference(step=step)
    construction = vfunc.construct_task(problem, phi, problem.batches[0])
    _, w = vfunc.feedback_gradient(problem, theta)

    def product():
        return vfunc.pullback.mixed_product(
            problem, theta, construction, w, engine, hessian=hessian
        )

    if said is None:
        assert product().diagnostics["fd_disagreement"] < 0.01
        return
    with pytest.raises(vfunc.NotConvergedError, match=said):
        product()


def test_finite_difference_sees_the_step_in_the_precision_of_the_loss():
    """Autocast rounds a float32 theta on its way into the layers."""
    problem, theta, phi = wide_network(torch.float32)
    ask = vfunc.FirstOrder(engine=FiniteDifference(step=1e-2))
    assert ask(problem, theta, phi).diagnostics["fd_disagreement"] < 0.01
    with pytest.raises(vfunc.NotConvergedError, match="bfloat16 rounds"):
        ask(replace(problem, compute_dtype=torch.bfloat16), theta, phi)


def test_gauss_newton_by_differences_refuses_a_step_that_rounds_away():
    problem, theta, phi = wide_network(torch.bfloat16, n=1024)
    task = vfunc.construct_task(problem, phi, problem.batches[0]).task
    matrix = GaussNewton.at(problem.composite, theta, task, differences=True)
    with pytest.raises(vfunc.NotConvergedError, match="bfloat16 rounds"):
        matrix(vfunc.feedback_gradient(problem, theta)[1])


@pytest.mark.parametrize("coarse", ["theta", "autocast"])
def test_auto_takes_no_finite_differences_in_coarse_precision(coarse):
    problem, theta, phi = wide_network(torch.bfloat16 if coarse == "theta" else torch.float32)
    compute = torch.bfloat16 if coarse == "autocast" else None
    problem = replace(problem, no_second_order="its kernels have none", compute_dtype=compute)
    with pytest.raises(vfunc.UserError, match=r"its kernels have none, and .* ask for the engine"):
        vfunc.FirstOrder()(problem, theta, phi)


@pytest.mark.parametrize("of_task", [False, True], ids=["of nothing", "of the task"])
@pytest.mark.parametrize("hessian", [False, True])
@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_loss_that_does_not_depend_on_theta_gives_zero(engine, hessian, of_task):
    made = cases.situation("mlp", 0)

    def coefficients(theta, task):
        return torch.ones_like(task["q"])

    def loss(theta, task):
        if linear is not None:
            return (task["q"] * coefficients(theta, task)).sum()
        return (task["q"].square() if of_task else coefficients(theta, task)).sum()

    if engine == "linear" and (hessian or of_task):
        return
    linear = vfunc.LinearForm("q", coefficients) if engine == "linear" else None
    problem = replace(made.problem, pretrain_loss=loss, linear=linear)
    construction = vfunc.construct_task(problem, made.phi, problem.batches[0])
    _, w = vfunc.feedback_gradient(problem, made.theta)
    product = vfunc.pullback.mixed_product(
        problem, made.theta, construction, w, engine, hessian=hessian
    )
    assert float(product.inner) == 0
    assert measures.size(construction.pull(product.task)) == 0
    assert not hessian or measures.size(product.hessian) == 0


BY_DIFFERENCES = [
    vfunc.FirstOrder(),
    vfunc.FirstOrder("cosine"),
    vfunc.FirstOrder("preconditioned"),
    vfunc.Unrolled(3),
    vfunc.Unrolled(3, truncate=2),
    vfunc.RandomDirection(),
]


@pytest.mark.parametrize("how", ["asked", "kernels", "memory"])
@pytest.mark.parametrize("estimator", BY_DIFFERENCES, ids=lambda x: type(x).__name__)
def test_an_estimate_by_finite_differences_says_so(estimator, how, monkeypatch):
    made = cases.situation("mlp view", 0, "adamw")
    problem = made.problem
    exact = estimator(problem, made.theta, made.phi).approximations
    if how == "asked":
        estimator = replace(estimator, engine="finite_difference")
    elif how == "kernels":
        problem = replace(problem, no_second_order="its kernels have none")
    else:
        monkeypatch.setattr(vfunc.pullback.memory, "free_bytes", lambda device: 0)
    estimate = estimator(problem, made.theta, made.phi)
    error = estimate.diagnostics["fd_disagreement"]
    phrase = f"{DIFFERENCES}, whose two step sizes disagree by {error:.1e}"
    assert estimate.approximations == (*exact, phrase)
    assert len(exact) == (getattr(estimator, "truncate", None) is not None)


def test_finite_difference_step_follows_the_coarsest_precision():
    double, single = torch.zeros(1), torch.zeros(1, dtype=torch.float32)
    assert step_length({"a": double}) == pytest.approx(0.5 * 2.0 ** (-52 / 3))
    assert step_length({"a": double, "b": single}) == pytest.approx(0.5 * 2.0 ** (-23 / 3))
    with pytest.raises(vfunc.UserError, match="step must be positive, not 0"):
        FiniteDifference(step=0.0)


@pytest.mark.parametrize(
    ("engine", "hessian"),
    # linear has no Hessian products
    [(e, h) for e in ENGINES for h in (False, True) if not (e == "linear" and h)],
)
def test_zero_direction_gives_zero(engine, hessian):
    made = cases.situation("mlp", 0)
    construction = vfunc.construct_task(made.problem, made.phi, made.problem.batches[0])
    w = {n: torch.zeros_like(x) for n, x in made.theta.items()}
    product = vfunc.pullback.mixed_product(
        made.problem, made.theta, construction, w, engine, hessian=hessian
    )
    assert float(product.inner) == 0
    assert measures.size(construction.pull(product.task)) == 0
    assert not hessian or measures.size(product.hessian) == 0


@pytest.mark.parametrize("engine", list(ENGINES))
def test_fused_attention_is_kept_off_the_engines_that_cannot_differentiate_it(engine):
    """With a fused kernel asked for around the call, exact engines still run, on the math path."""
    made = cases.situation("qwen2", 6)  # sdpa
    want = vfunc.FirstOrder(engine="reverse")(made.problem, made.theta, made.phi)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        got = vfunc.FirstOrder(engine=engine)(made.problem, made.theta, made.phi)
    assert measures.apart(got.grad, want.grad) <= (1e-5 if engine == "finite_difference" else 1e-9)


def test_construction_detaches_the_task_and_remembers_the_way_back():
    made = cases.situation("mlp view", 0)
    construction = vfunc.construct_task(made.problem, made.phi, made.problem.batches[0])
    assert construction.designed == ("x", "q")
    assert not any(x.requires_grad for x in construction.task.values())
    cotangents = {n: torch.ones_like(construction.task[n]) for n in construction.designed}
    # q sums to one at every point, so that only x carries a gradient
    pulled = construction.pull(cotangents)
    assert pulled["r"].abs().max() < 1e-15
    assert measures.size(pulled) > 0
    again = construction.pull(cotangents)
    assert measures.apart(again, pulled) == 0


def test_construction_of_a_problem_without_design_pulls_zeros():
    made = cases.situation("mlp", 0)
    problem = replace(made.problem, construct=lambda phi, batch: {"q": torch.ones(2)})
    construction = vfunc.construct_task(problem, made.phi, None)
    assert construction.designed == ()
    assert measures.size(construction.pull({})) == 0
