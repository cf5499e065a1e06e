"""A loss that holds something constant: refused where an engine would be wrong, right as declared."""

from __future__ import annotations

import dataclasses
import gc

import measures
import pytest
import torch
from torch import nn

import vfunc
from vfunc import trees
from vfunc.problem import construct_task, pieces_of_code
from vfunc.pullback.engine import ProductRequest
from vfunc.pullback.held_constant import Hidden, hidden
from vfunc.pullback.stop_gradients import StopGradientError

pytestmark = pytest.mark.usefixtures("float64")

draw = measures.generator(0)


class Setting:
    """A learner, a frozen teacher, and a designer that makes two views of a batch."""

    def __init__(self):
        torch.manual_seed(0)
        self.learner = vfunc.functional(nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)))
        self.teacher = nn.Linear(3, 2).requires_grad_(False)
        self.theta = self.learner.theta
        self.phi = {"a": measures.normal(draw, 3) * 0.3, "b": measures.normal(draw, 3) * 0.3}
        self.batches = tuple(measures.normal(draw, 5, 3) for _ in range(3))
        self.x, self.y = measures.normal(draw, 6, 3), measures.normal(draw, 6, 2)

    def views(self, phi, batch):
        return {"x": batch + phi["a"] * batch.sin(), "y": batch + phi["b"] * batch.cos()}

    def one_view(self, phi, batch):
        return {"x": batch + phi["a"] * batch.sin(), "y": batch}

    def problem(self, loss, construct=None, rule=None, **more):
        return vfunc.ValueProblem(
            construct or self.views,
            loss,
            lambda theta: (self.learner(theta, self.x) - self.y).square().mean(),
            self.batches,
            vfunc.UpdateRule(rule or vfunc.SGD(0.3)),
            **more,
        )


@pytest.fixture
def at():
    return Setting()


def detached(at):
    return lambda th, t: (at.learner(th, t["x"]) - at.learner(th, t["y"]).detach()).square().mean()


def by_a_teacher(at):
    def loss(theta, task):
        with torch.no_grad():
            wanted = at.teacher(task["y"])
        return (at.learner(theta, task["x"]) - wanted).square().mean()

    return loss


def by_data(at):
    return lambda th, t: (at.learner(th, t["x"]) - at.teacher(t["y"].data)).square().mean()


def by_a_number(at):
    def loss(theta, task):
        return at.learner(theta, task["x"]).square().mean() * (1 + task["y"].square().sum().item())

    return loss


def straight_through(at):
    def loss(theta, task):
        y = task["y"]
        hard = y + (y.sign() - y).detach()
        return (at.learner(theta, task["x"]) - at.teacher(hard)).square().mean()

    return loss


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, g):
        return None


def by_a_function(at):
    return lambda th, t: (at.learner(th, t["x"]) - _Blocked.apply(t["y"])[:, :2]).square().mean()


LOSSES = {f.__name__: f for f in (detached, by_a_teacher, by_data, by_a_number, straight_through,
                                  by_a_function)}  # fmt: skip
ENGINES = ["auto", "reverse", "forward", "finite_difference"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", LOSSES)
def test_what_phi_puts_behind_one_is_refused_for_every_engine(name, engine, at):
    problem = at.problem(LOSSES[name](at))
    for _ in range(2):  # not the first time alone
        with pytest.raises(
            vfunc.UserError, match=r"holds constant .*'x' and 'y' \(a stop-gradient"
        ):
            vfunc.FirstOrder(engine=engine)(problem, at.theta, at.phi)


def test_constant_in_theta_alone_is_right_by_exact_engines_and_refused_for_others(at):
    problem = at.problem(detached(at), at.one_view)
    held = at.problem(
        lambda th, t, h: (at.learner(th, t["x"]) - at.learner(h, t["y"])).square().mean(),
        at.one_view,
        stop_gradient=True,
    )
    wanted = vfunc.FirstOrder()(held, at.theta, at.phi).grad
    for engine in ("auto", "reverse"):
        found = vfunc.FirstOrder(engine=engine)(problem, at.theta, at.phi).grad
        assert measures.apart(found, wanted) < 1e-12
    with pytest.raises(vfunc.UserError, match=r"goes through torch\.no_grad"):
        vfunc.FirstOrder(engine="forward")(problem, at.theta, at.phi)
    with pytest.raises(vfunc.UserError, match=r"depends on theta .* take the engine reverse"):
        vfunc.FirstOrder(engine="finite_difference")(problem, at.theta, at.phi)
    for estimator in (vfunc.Unrolled(2), vfunc.Unrolled(2, engine="forward"), vfunc.Implicit()):
        with pytest.raises(vfunc.UserError, match="takes Hessian products, which lack that"):
            estimator(problem, at.theta, at.phi)


def self_consistency(at):
    def loss(theta, task, held):
        return (at.learner(theta, task["x"]) - at.learner(held, task["y"])).square().mean()

    return loss


@pytest.mark.parametrize("engine", ["reverse", "forward", "finite_difference"])
@pytest.mark.parametrize(
    "estimator",
    [vfunc.FirstOrder(), vfunc.FirstOrder("cosine"), vfunc.FirstOrder("preconditioned"),
     vfunc.Unrolled(1), vfunc.Unrolled(3), vfunc.Unrolled(3, checkpoint_every=2)],
    ids=repr,
)  # fmt: skip
def test_as_the_third_argument_it_is_right(estimator, engine, at):
    """Against differences of the objective, whose steps hold theta constant as live ones do."""
    problem = at.problem(self_consistency(at), rule=vfunc.SGD(0.3, 0.9), stop_gradient=True)
    ask = type(estimator)(**{**vars(estimator), "engine": engine})
    along = measures.direction(at.phi, 1)
    grad = ask(problem, at.theta, at.phi).grad

    def objective(step):
        return float(ask(problem, at.theta, measures.moved(at.phi, step, along)).objective)

    slope = measures.slope(objective)
    assert measures.inner(grad, along) == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_unrolled_steps_are_those_of_a_live_optimizer(at):
    problem = at.problem(self_consistency(at), stop_gradient=True)
    module = at.learner.module
    optimizer = torch.optim.SGD(module.parameters(), 0.3)
    before = problem.feedback_loss(at.theta)
    start = {n: x.clone() for n, x in at.theta.items()}
    for batch in at.batches:
        optimizer.zero_grad()
        live = at.learner.live
        task = trees.detach(at.views(at.phi, batch))
        problem.pretrain_loss(live, task, trees.detach(live)).backward()
        optimizer.step()
    realised = float(before - problem.feedback_loss(at.learner.theta))
    assert float(vfunc.Unrolled(3)(problem, start, at.phi).value) == pytest.approx(realised)


def test_a_linear_form_and_parts_take_it_too(at):
    def coefficients(theta, task, held):
        return at.learner(theta, task["x"]) * at.learner(held, task["x"]).tanh()

    problem = at.problem(
        lambda th, t, h: (t["q"] * coefficients(th, t, h)).sum(),
        lambda phi, batch: {"x": batch, "q": (batch @ phi["a"])[:, None] * torch.ones(2)},
        linear=vfunc.LinearForm("q", coefficients),
        parts=lambda th, t, h: (t["q"] * coefficients(th, t, h)).sum(1),
        stop_gradient=True,
    )
    by_linear = vfunc.FirstOrder(engine="linear")(problem, at.theta, at.phi)
    by_reverse = vfunc.FirstOrder(engine="reverse")(problem, at.theta, at.phi)
    assert measures.apart(by_linear.grad, by_reverse.grad) < 1e-12
    parts = vfunc.value_of_parts(problem, at.theta, at.phi)
    assert float(parts.sum()) == pytest.approx(float(by_linear.value))


def test_implicit_has_no_inner_problem_then(at):
    problem = at.problem(self_consistency(at), stop_gradient=True)
    with pytest.raises(vfunc.UserError, match="a loss with a stop-gradient has none"):
        vfunc.Implicit()(problem, at.theta, at.phi)


def stabilised(at):
    """A maximum that is subtracted and added again: detached, and no stop-gradient."""

    def loss(theta, task):
        z = at.learner(theta, task["x"]) + task["y"][:, :2]
        top = z.max(-1, keepdim=True).values.detach()
        return ((z - top).exp().sum(-1).log() + top.squeeze(-1)).mean()

    return loss


def kinked(at):
    """Clamped entries of the task, some of them exactly at the bound."""

    def loss(theta, task):
        y = (task["y"] - task["y"].detach()).clamp(min=0)
        return (at.learner(theta, task["x"]) - y[:, :2]).square().mean()

    return loss


def steps(at):
    """A hard choice has a slope of zero, and so has its gradient."""

    def loss(theta, task):
        return (at.learner(theta, task["x"]) * (task["y"][:, :2] > 0)).square().mean()

    return loss


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("loss", [stabilised, steps], ids=lambda f: f.__name__)
def test_what_only_looks_like_one_is_not_refused(loss, dtype, at):
    at.learner.module.to(dtype)
    at.x, at.y = at.x.to(dtype), at.y.to(dtype)
    at.batches = tuple(b.to(dtype) for b in at.batches)
    phi = {n: x.to(dtype) for n, x in at.phi.items()}
    for engine in ENGINES:
        vfunc.FirstOrder(engine=engine)(at.problem(loss(at)), at.learner.theta, phi)


def test_the_loss_is_looked_at_once_for_each_piece_of_code(at):
    calls = []

    def loss(theta, task):
        calls.append(task)
        return (at.learner(theta, task["x"]) - task["y"][:, :2]).square().mean()

    def spent():
        calls.clear()
        vfunc.FirstOrder(engine="reverse")(at.problem(loss), at.theta, at.phi)
        return len(calls)

    assert spent() > 1
    assert spent() == spent() == 1


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0, 10.0])
def test_terms_without_theta_do_not_hide_one(weight, at):
    def loss(theta, task):
        own = detached(at)(theta, task)
        return own + weight * (task["x"].square().mean() + task["y"].square().mean())

    with pytest.raises(vfunc.UserError, match="a stop-gradient"):
        vfunc.FirstOrder()(at.problem(loss), at.theta, at.phi)


def test_forward_mode_goes_through_no_grad_and_leaves_it_to_reverse(at):
    def coefficients(theta, task):
        with torch.no_grad():
            own = at.learner(theta, task["x"].flip(0))
        return (at.learner(theta, task["x"]) - own).square()

    problem = at.problem(
        lambda th, t: (t["q"] * coefficients(th, t)).sum(),
        lambda phi, batch: {"x": batch, "q": (batch @ phi["a"])[:, None] * torch.ones(2)},
        linear=vfunc.LinearForm("q", coefficients),
    )
    found = vfunc.FirstOrder()(problem, at.theta, at.phi)
    assert found.diagnostics["engine"] == "reverse"
    for engine in ("linear", "forward"):
        with pytest.raises(vfunc.UserError, match=r"goes through torch\.no_grad"):
            vfunc.FirstOrder(engine=engine)(problem, at.theta, at.phi)


def test_a_weight_that_a_closure_raises_from_zero_is_looked_at_again(at):
    def loss_at(weight):
        return lambda th, t: (
            (at.learner(th, t["x"]) - weight * at.learner(th, t["y"]).detach()).square().mean()
        )

    vfunc.FirstOrder()(at.problem(loss_at(0.0)), at.theta, at.phi)
    with pytest.raises(vfunc.UserError, match="a stop-gradient"):
        vfunc.FirstOrder()(at.problem(loss_at(1.0)), at.theta, at.phi)


def test_a_mask_of_minus_infinity_hides_nothing(at):
    mask = torch.tensor([0.0, 0.0, -torch.inf])

    def loss(theta, task):
        weights = task["z"].softmax(0)[:2]
        return (weights * at.learner(theta, task["x"]) - at.learner(theta, task["y"]).detach()
                ).square().mean()  # fmt: skip

    problem = at.problem(loss, lambda phi, b: at.views(phi, b) | {"z": phi["a"] + mask})
    with pytest.raises(vfunc.UserError, match="a stop-gradient"):
        vfunc.FirstOrder()(problem, at.theta, at.phi)


def test_complex_entries_of_a_task_are_refused(at):
    problem = at.problem(
        detached(at), lambda phi, b: at.views(phi, b) | {"c": torch.fft.rfft(phi["a"])}
    )
    with pytest.raises(vfunc.UserError, match="complex numbers as 'c'"):
        vfunc.FirstOrder()(problem, at.theta, at.phi)


class Blocking(nn.Module):
    """A layer that cuts what comes before it off."""

    def forward(self, x):
        return x.detach()


def learner_of(*layers):
    torch.manual_seed(0)
    return vfunc.functional(nn.Sequential(*layers, nn.Linear(3, 2)))


def on_a_view(at, learner, estimator=None):
    def loss(theta, task):
        return learner(theta, task["x"]).square().mean()

    problem = at.problem(loss, at.one_view)
    return (estimator or vfunc.FirstOrder())(
        dataclasses.replace(problem, feedback_loss=lambda th: learner(th, at.x).square().mean()),
        learner.theta,
        at.phi,
    )


def test_a_module_in_the_place_of_one_that_is_gone_is_looked_at(at, monkeypatch):
    """Identities come again: here all objects have the same."""
    monkeypatch.setattr(pieces_of_code, "id", lambda x: 7, raising=False)
    on_a_view(at, learner_of(nn.Identity()))
    gc.collect()
    with pytest.raises(vfunc.UserError, match="holds constant"):
        on_a_view(at, learner_of(Blocking()))


def test_a_module_has_a_number_that_no_other_has_had():
    seen, again = {}, 0
    for _ in range(300):
        module = nn.Identity()
        code = pieces_of_code.code_of(module)
        assert code == pieces_of_code.code_of(module)
        again += id(module) in seen
        assert seen.get(id(module)) != code
        seen[id(module)] = code
        del module
    assert again  # the interpreter does give an identity twice
    gc.collect()
    before = len(pieces_of_code._numbers)
    code = pieces_of_code.code_of(nn.Linear(2, 2))
    gc.collect()
    assert len(pieces_of_code._numbers) == before  # and nothing is kept of what is gone


def test_a_module_with_an_equality_of_its_own_is_looked_at():
    class Equal(nn.Identity):
        def __eq__(self, other):
            return True

        __hash__ = nn.Identity.__hash__

    one, other = Equal(), Equal()
    assert (
        pieces_of_code.code_of(one) == pieces_of_code.code_of(one) != pieces_of_code.code_of(other)
    )


def test_a_layer_that_is_replaced_is_looked_at(at):
    learner = learner_of(nn.Identity())
    on_a_view(at, learner)
    learner.module[0] = Blocking()
    with pytest.raises(vfunc.UserError, match="holds constant"):
        on_a_view(at, learner)


def stairs(count):
    return lambda x: (count * x).round() / count


STAIRCASES = {
    "a picture of 256 levels": stairs(255),
    "beside the view itself": lambda x: 0.5 * x + 0.5 * stairs(255)(x),
    "a depth map": stairs(1000),
    "whole numbers": lambda x: (400 * x).long().to(x.dtype) / 400,
    "fine floors": lambda x: (500 * x).floor() / 500,
}


def seen(quantise, seed, behind=lambda x: x, dtype=torch.float32):
    """What is found in a loss of a quantised view."""
    torch.manual_seed(seed)
    learner = vfunc.functional(nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).to(dtype))
    view, wanted = torch.randn(5, 3, dtype=dtype), torch.randn(5, 2, dtype=dtype)

    def loss(theta, task):
        return (behind(learner(theta, quantise(task["x"]))) - wanted).square().mean()

    problem = vfunc.ValueProblem(
        lambda phi, batch: {"x": batch + phi["a"] * batch.sin()},
        loss,
        lambda theta: learner(theta, view).square().mean(),
        (view,),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
    )
    made = construct_task(problem, {"a": torch.randn(3, dtype=dtype)}, view)
    theta = learner.theta
    return hidden(ProductRequest(problem, theta, made.task, made.designed, theta))


@pytest.mark.parametrize("name", STAIRCASES)
def test_a_staircase_is_no_stop_gradient_in_float32(name):
    """Its gradient is zero, and over steps as long as float32 needs them its slope is a line's."""
    for seed in range(12):
        assert seen(STAIRCASES[name], seed) == Hidden(task=False, theta=False)


def test_a_stop_gradient_in_float32_is_found_all_the_same():
    """In the task, in theta, and beside a staircase that is too coarse to look like a line."""
    for seed in range(6):
        assert seen(torch.detach, seed) == Hidden(task=True, theta=False)
        assert seen(lambda x: x, seed, lambda y: y * y.detach()).theta
        beside = seen(lambda x: x + stairs(1)(x) + x.sin().detach(), seed)
        assert beside.task


def test_what_cannot_be_computed_in_float64_stays_as_it_was_found():
    def single(x):
        if x.dtype == torch.float64:
            raise RuntimeError("in single precision alone")
        return x.detach()

    assert seen(single, 0).task


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_spectral_norm_that_iterates_has_no_hessian_products(at, norm):
    # .1 to 6 % off without a word: its vectors follow theta under no_grad
    learner = learner_of(norm(nn.Linear(3, 3)))
    with pytest.raises(StopGradientError, match=r"spectral norm of Sequential.*eval mode"):
        on_a_view(at, learner, vfunc.Unrolled(lookahead_steps=2))
    on_a_view(at, learner)
    learner.module.eval()
    on_a_view(at, learner, vfunc.Unrolled(lookahead_steps=2))


def test_what_was_seen_in_theta_at_one_point_is_not_forgotten_at_another(at):
    """Here theta is such that the constant part is too small to be seen."""

    def loss(theta, task):
        y, own = at.learner(theta, task["x"]), at.learner(theta, at.x)
        return (y - task["y"][:, :2]).square().mean() + 3 * (own * own.detach().sin()).mean()

    vfunc.FirstOrder(engine="reverse")(at.problem(loss), at.theta, at.phi)
    small = {n: 1e-3 * x for n, x in at.theta.items()}
    for _ in range(2):
        with pytest.raises(StopGradientError, match="constant what depends on theta"):
            vfunc.FirstOrder(engine="finite_difference")(at.problem(loss), small, at.phi)


def test_a_backward_pass_of_ones_own_is_named_too(at):
    learner = learner_of(nn.Linear(3, 3))
    learner.module[0].register_full_backward_pre_hook(lambda module, g: tuple(2 * x for x in g))
    with pytest.raises(StopGradientError, match="backward pass of BackwardHookFunction"):
        on_a_view(at, learner)
