"""Every optimizer of torch.optim: the live step, its pullback, and unrolled through it."""

from __future__ import annotations

from dataclasses import replace

import every_optimizer
import measures
import mpmath
import pytest
import torch
from every_optimizer import EVERY

import vfunc
from vfunc.simulate import TensorState, UpdateRule, from_optimizer

SMOOTH = [case for case in EVERY if EVERY[case][0] not in ("Rprop",)]


@pytest.fixture(params=[torch.float64, torch.float32], ids=["64", "32"])
def dtype(request):
    """The precision of parameters, and torch's default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.mark.parametrize("case", EVERY)
def test_the_simulated_step_is_the_live_one(case, dtype):
    """After 0, 1 and 7 real steps, parameters and state; and the four steps after each."""
    rounding = 40 * torch.finfo(dtype).eps
    for taken in (0, 1, 7):
        parameters = every_optimizer.start(case, dtype)
        optimizer = every_optimizer.made(case, parameters)
        every_optimizer.walk(optimizer, parameters, taken)
        rule, state = from_optimizer(optimizer, parameters)
        theta = {n: p.detach().clone() for n, p in parameters.items()}
        state = {
            n: replace(s, buffers={k: b.clone() for k, b in s.buffers.items()})
            for n, s in state.items()
        }
        for k in range(4):
            g = every_optimizer.gradients(parameters, taken + k)
            theta, state = rule.step(theta, state, g)
            for name, p in parameters.items():
                p.grad = g[name]
            optimizer.step()
            optimizer.zero_grad()
            _, reread = from_optimizer(optimizer, parameters)
            for name, p in parameters.items():
                torch.testing.assert_close(theta[name], p.detach(), rtol=rounding, atol=rounding)
                live = reread.get(name, TensorState())
                assert live.buffers.keys() <= state[name].buffers.keys()
                for key, buffer in live.buffers.items():
                    simulated = state[name].buffers[key]
                    torch.testing.assert_close(simulated, buffer, rtol=rounding, atol=rounding)
                if "momentum_buffer" not in live.buffers and live.buffers:
                    assert state[name].step == live.step


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("one_rule", [False, True], ids=["by name", "one rule"])
@pytest.mark.parametrize("case", EVERY)
def test_a_parameter_that_comes_late_begins_as_torch_begins_it(case, one_rule):
    """Without a gradient so far it has no state yet, beside others that have taken steps."""
    parameters = every_optimizer.start(case)
    late = list(parameters)[1]
    optimizer = every_optimizer.made(case, parameters)
    every_optimizer.walk(optimizer, {n: p for n, p in parameters.items() if n != late}, 3)
    rule, state = from_optimizer(optimizer, parameters)
    assert not state.get(late, TensorState()).step
    if one_rule:
        rule = UpdateRule(rule.rule(late))
    theta = {n: p.detach().clone() for n, p in parameters.items()}
    state = {
        n: replace(s, buffers={k: b.clone() for k, b in s.buffers.items()})
        for n, s in state.items()
    }
    for k in range(3):
        g = every_optimizer.gradients(parameters, k)
        theta, state = rule.step(theta, state, g)
        for name, p in parameters.items():
            p.grad = g[name]
        optimizer.step()
        for name, p in parameters.items():
            torch.testing.assert_close(theta[name], p.detach(), rtol=1e-14, atol=1e-14)


def by_autograd(case, p, g, s, t, p_bar, bars):
    """Cotangents of p, g and the state, by autograd of the oracle."""
    update = every_optimizer.reference(case)
    p, g = p.clone().requires_grad_(), g.clone().requires_grad_()
    s = {k: x.clone().requires_grad_() for k, x in s.items()}
    after, state = update(p, g, s, t)
    total = (after * p_bar).sum() + sum((state[k] * bars[k]).sum() for k in bars)
    inputs = [p, g, *s.values()]
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    found = [torch.zeros_like(x) if d is None else d for x, d in zip(inputs, found, strict=True)]
    return found[0], found[1], dict(zip(s, found[2:], strict=True))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", EVERY)
def test_the_pullback_is_the_oracle_s(case):
    """After 1 and 7 steps, cotangents of parameter, gradient and every buffer."""
    for taken in (1, 7):
        parameters = every_optimizer.start(case)
        optimizer = every_optimizer.made(case, parameters)
        every_optimizer.walk(optimizer, parameters, taken)
        rule, state = from_optimizer(optimizer, parameters)
        g = every_optimizer.gradients(parameters, taken)
        draw = measures.generator(taken)
        for name, p in parameters.items():
            own, before = rule.rule(name), state.get(name, TensorState())
            _, moved = own.step(p.detach(), before, g[name])
            p_bar = measures.normal(draw, *p.shape)
            bars = {k: measures.normal(draw, *x.shape) for k, x in moved.buffers.items()}
            got = own.vjp(p.detach(), before, g[name], p_bar, bars)
            want = by_autograd(case, p.detach(), g[name], before.buffers, taken + 1, p_bar, bars)
            assert got[1].keys() == before.buffers.keys()
            for a, b in ((got[0], want[0]), (got[2], want[1])):
                torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
            for key, x in got[1].items():
                torch.testing.assert_close(x, want[2][key], rtol=1e-8, atol=1e-10)


ROOTS = [
    c
    for c in SMOOTH
    if EVERY[c][0] not in ("SGD", "ASGD", "Muon", "Adafactor") and "foreach" not in c
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("g", [1e-9, -3e-5, 0.3])
@pytest.mark.parametrize("case", ROOTS)
def test_from_a_fresh_state_the_slope_has_all_its_digits(case, g):
    """Against fifty digits: terms that cancel in a fresh state are cancelled on paper."""
    update = every_optimizer.reference(case)
    parameters = {"x": torch.tensor([0.0], requires_grad=True)}
    optimizer = every_optimizer.made(case, parameters)
    rule, state = from_optimizer(optimizer, parameters)
    before = state.get("x", TensorState())
    one = torch.ones(1)
    p_bar, _, slope = rule.rule("x").vjp(torch.zeros(1), before, torch.tensor([g]), one, {})
    assert torch.isfinite(p_bar).all()
    with mpmath.workdps(50):

        def stepped(x):
            return update(mpmath.mpf(0), x, {}, 1)[0]

        x = mpmath.mpf(g)
        exact = float(mpmath.diff(stepped, x, h=abs(x) * mpmath.mpf("1e-20")))
    assert float(slope) == pytest.approx(exact, rel=1e-7)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", EVERY)
@pytest.mark.parametrize("taken", [0, 3])
def test_a_unit_without_gradient_has_a_finite_pullback(case, taken):
    """A relu that is off: zero gradients at every step; roots and norms of zero."""
    parameters = every_optimizer.start(case)
    optimizer = every_optimizer.made(case, parameters)
    zero = {n: torch.zeros_like(p) for n, p in parameters.items()}
    for _ in range(taken):
        for name, p in parameters.items():
            p.grad = zero[name].clone()
        optimizer.step()
    rule, state = from_optimizer(optimizer, parameters)
    for name, p in parameters.items():
        own, before = rule.rule(name), state.get(name, TensorState())
        after, moved = own.step(p.detach(), before, zero[name])
        bars = {k: torch.ones_like(x) for k, x in moved.buffers.items()}
        p_bar, buffers, g_bar = own.vjp(
            p.detach(), before, zero[name], torch.ones_like(p.detach()), bars
        )
        for x in (after, p_bar, g_bar, *buffers.values()):
            assert torch.isfinite(x).all(), name


def asked(case, taken):
    """(problem, theta, phi, reference states): a small learner whose features phi weighs."""
    draw = measures.generator(taken)
    theta = {"w": measures.normal(draw, 4, 3).requires_grad_()}
    if EVERY[case][0] != "Muon":
        theta["b"] = measures.normal(draw, 4).requires_grad_()
    optimizer = every_optimizer.made(case, theta)
    every_optimizer.walk(optimizer, theta, taken)
    rule, state = from_optimizer(optimizer, theta)
    held = {n: {k: x.clone() for k, x in s.buffers.items()} for n, s in state.items()}

    def out(theta, x):
        return torch.tanh(x @ theta["w"].T + theta.get("b", 0.0))

    x, y = measures.normal(draw, 7, 3), measures.normal(draw, 7, 4)
    problem = vfunc.ValueProblem(
        lambda phi, batch: {"x": batch, "y": batch @ phi["m"]},
        lambda theta, task: ((out(theta, task["x"]) - task["y"]) ** 2).sum(),
        lambda theta: ((out(theta, x) - y) ** 2).sum(),
        tuple(measures.normal(draw, 5, 3) for _ in range(4)),
        rule,
        state,
    )
    phi = {"m": measures.normal(draw, 3, 4)}
    return problem, {n: p.detach().clone() for n, p in theta.items()}, phi, held


def unrolled(case, problem, theta, phi, held, steps, taken):
    """The value and its gradient by plain autograd through the oracle's steps."""
    update = every_optimizer.reference(case)
    phi = {n: x.clone().requires_grad_() for n, x in phi.items()}
    point = {n: x.clone().requires_grad_() for n, x in theta.items()}
    before = problem.feedback_loss(point).detach()
    for k in range(steps):
        loss = problem.pretrain_loss(point, problem.construct(phi, problem.batches[k]))
        g = torch.autograd.grad(loss, list(point.values()), create_graph=True)
        moved = {}
        for (name, p), d in zip(point.items(), g, strict=True):
            moved[name], held[name] = update(p, d, held.get(name, {}), taken + k + 1)
        point = moved
    value = before - problem.feedback_loss(point)
    (grad,) = torch.autograd.grad(value, phi["m"])
    return float(value.detach()), {"m": grad}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", SMOOTH)
def test_unrolled_is_autograd_through_a_loop_of_the_oracle(case):
    for taken, steps in ((7, 1), (1, 2), (7, 4)):
        problem, theta, phi, held = asked(case, taken)
        estimate = vfunc.Unrolled(steps, engine="reverse")(problem, theta, phi)
        value, grad = unrolled(case, problem, theta, phi, held, steps, taken)
        narrow = EVERY[case][0] == "Muon"
        assert float(estimate.value) == pytest.approx(value, rel=1e-3 if narrow else 1e-9)
        assert measures.apart(estimate.grad, grad) <= (1e-2 if narrow else 1e-8)
        assert estimate.diagnostics.get("bfloat16_step", False) is narrow


@pytest.mark.usefixtures("float64")
def test_rprop_says_that_its_step_is_a_sign():
    """Its value is the loop's; its slope in the gradient is zero, and the estimate says so."""
    problem, theta, phi, held = asked("Rprop", 3)
    estimate = vfunc.Unrolled(2)(problem, theta, phi)
    value = float(problem.feedback_loss(theta))
    update, point = every_optimizer.reference("Rprop"), theta
    for k in range(2):
        task = problem.construct(phi, problem.batches[k])
        g = vfunc.pretrain_gradient(problem, point, task)
        moved = {n: update(p, g[n], held[n], 4 + k) for n, p in point.items()}
        point, held = {n: m[0] for n, m in moved.items()}, {n: m[1] for n, m in moved.items()}
    assert float(estimate.value) == pytest.approx(value - float(problem.feedback_loss(point)))
    assert not estimate.grad["m"].any()
    assert estimate.diagnostics["sign_step"] is True


@pytest.mark.usefixtures("float64")
def test_muon_in_full_precision_is_smooth():
    """With `narrow=False` finite differences see what its pullback says."""
    problem, theta, phi, _ = asked("Muon", 3)
    rules = {n: replace(problem.rule.rule(n), narrow=False) for n in theta}
    problem = replace(problem, rule=UpdateRule(rules))
    along = measures.direction(phi, 0)

    def value(t):
        return float(vfunc.Unrolled(2)(problem, theta, measures.moved(phi, t, along)).value)

    estimate = vfunc.Unrolled(2)(problem, theta, phi)
    assert measures.slope(value, 1e-3) == pytest.approx(
        measures.inner(estimate.grad, along), rel=1e-6
    )
    assert "bfloat16_step" not in estimate.diagnostics


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("case", "taken"),
    [("NAdam", 0), ("RMSprop all", 0), ("Adafactor", 0), ("Rprop", 3), ("Muon", 0)],
)
def test_certify_accuses_none_of_them(case, taken):
    """Closed form, automatic, a sign, and bfloat16 that is a staircase."""
    problem, theta, phi, _ = asked(case, taken)
    found = vfunc.certify(problem, theta, phi, vfunc.Unrolled(2), directions=1, quiet=True)
    assert any("full precision" in note for note in found.notes) is (case == "Muon")
