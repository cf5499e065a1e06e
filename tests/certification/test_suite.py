"""Wrong problems are caught and their culprit is named; right ones are not accused.

Each case is a small change to one plain problem: a tanh network, two designed views of a batch, one
of them the target.
"""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import measures
import pytest
import torch
from odd_objects import odd_objects
from torch import nn
from torch.nn import functional as F

import vfunc
from vfunc import trees

pytestmark = pytest.mark.usefixtures("float64")


class Plain:
    """The parts of a problem, to be changed before it is put together."""

    def __init__(self, module=None, width=3):
        torch.manual_seed(0)
        draw = measures.generator(0)
        self.module = module or nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        self.f = vfunc.functional(self.module)
        self.teacher = nn.Linear(width, 2).requires_grad_(False)
        self.phi = {
            "a": 0.3 * measures.normal(draw, width),
            "b": 0.3 * measures.normal(draw, width),
        }
        self.batches = tuple(measures.normal(draw, 5, width) for _ in range(2))
        self.x, self.y = measures.normal(draw, 6, width), measures.normal(draw, 6, 2)
        self.rule: Any = vfunc.SGD(0.3)
        self.state: dict = {}
        self.estimator: Any = vfunc.FirstOrder()
        self.more: dict[str, Any] = {}

    def construct(self, phi, batch):
        return {"x": batch + phi["a"] * batch.sin(), "y": batch + phi["b"] * batch.cos()}

    def pretrain_loss(self, theta, task):
        return (self.f(theta, task["x"]) - self.teacher(task["y"])).square().mean()

    def feedback_loss(self, theta):
        return (self.f(theta, self.x) - self.y).square().mean()

    def certify(self):
        problem = vfunc.ValueProblem(
            self.construct,
            self.pretrain_loss,
            self.feedback_loss,
            self.batches,
            vfunc.UpdateRule(self.rule),
            self.state,
            **self.more,
        )
        return vfunc.certify(
            problem, self.f.theta, self.phi, self.estimator, directions=1, quiet=True
        )


@dataclass(frozen=True)
class Scaled:
    """A custom function whose derivatives can be wrong by a factor."""

    first: float = 1.0
    second: float = 1.0
    tangent: float = 1.0

    def __call__(self, x):
        one = self

        class Backward(torch.autograd.Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(x, g):
                return one.first * g * x.cos()

            @staticmethod
            def setup_context(ctx, inputs, output):
                ctx.save_for_backward(*inputs)
                ctx.save_for_forward(*inputs)

            @staticmethod
            def backward(ctx, h):
                x, g = ctx.saved_tensors
                return -one.second * one.first * h * g * x.sin(), one.first * h * x.cos()

            @staticmethod
            def jvp(ctx, tx, tg):
                x, g = ctx.saved_tensors
                return one.first * (tg * x.cos() - one.tangent * g * x.sin() * tx)

        class Sine(torch.autograd.Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(x):
                return x.sin()

            @staticmethod
            def setup_context(ctx, inputs, output):
                ctx.save_for_backward(*inputs)
                ctx.save_for_forward(*inputs)

            @staticmethod
            def backward(ctx, g):
                return Backward.apply(ctx.saved_tensors[0], g)

            @staticmethod
            def jvp(ctx, tx):
                return tx * ctx.saved_tensors[0].cos()

        return Sine.apply(x)


class None_(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, g):
        return None


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, g):
        return 2 * g


class Cut(nn.Module):
    """A layer that cuts its input off."""

    def forward(self, x):
        return x.detach() * 1.0


class Ema(nn.Module):
    """A layer with a moving average that is no buffer."""

    def __init__(self):
        super().__init__()
        self.inner, self.average = nn.Linear(3, 2), torch.zeros(2)

    def forward(self, x):
        y = self.inner(x)
        self.average = 0.9 * self.average + 0.1 * y.detach().mean(0)
        return y - self.average


class Counting(nn.Module):
    """A layer that is another one in every n-th call."""

    def __init__(self, every):
        super().__init__()
        self.inner, self.every, self.calls = nn.Linear(3, 2), every, 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x) * (1.1 if self.calls % self.every == 0 else 1.0)


WRONG: dict[str, tuple[Callable[[Plain], Any], str]] = {}
"""What changes the problem, and what the message has to say."""


def wrong(said: str, name: str = "") -> Callable[[Any], Any]:
    def keep(change):
        WRONG[(name or change.__name__).replace("_", " ")] = (change, said)
        return change

    return keep


# -- stop-gradients -------------------------------------------------------------------------------

STOP = r"in the task's .*torch\.Tensor\.{} holds constant .*stop-gradient"


def cut_target(cut: Callable[[Plain, Any], Any]):
    def change(p):
        p.pretrain_loss = lambda th, t: (p.f(th, t["x"]) - cut(p, t["y"])).square().mean()

    return change


def _under_no_grad(p, y):
    with torch.no_grad():
        return p.teacher(y)


for name, said, cut in (
    ("detach after the teacher", STOP.format("detach"), lambda p, y: p.teacher(y).detach()),
    ("detach before the teacher", STOP.format("detach"), lambda p, y: p.teacher(y.detach())),
    ("data", STOP.format("data"), lambda p, y: p.teacher(y.data)),
    ("a teacher under no grad", r"linear, under torch\.no_grad\(\), holds constant", _under_no_grad),
    ("item", STOP.format("item"), lambda p, y: y.square().sum().item()),
    ("tolist", STOP.format("tolist"), lambda p, y: torch.tensor(y[:, :2].tolist())),
    ("numpy", STOP.format("detach"), lambda p, y: torch.tensor(y[:, :2].detach().numpy())),
    ("straight through", STOP.format("detach"),
     lambda p, y: y[:, :2] + (y[:, :2].sign() - y[:, :2]).detach()),
    ("a function without a gradient", "look at the autograd function None_",
     lambda p, y: None_.apply(y)[:, :2]),
    ("half of it", STOP.format("detach"), lambda p, y: p.teacher(0.5 * y + 0.5 * y.detach())),
):  # fmt: skip
    wrong(said, name)(cut_target(cut))


@wrong(r"pretrain_loss: its plain gradient in theta .*Tensor\.detach holds constant")
def own_target(p):
    p.pretrain_loss = lambda th, t: (p.f(th, t["x"]) - p.f(th, t["y"]).detach()).square().mean()


@wrong(r"pretrain_loss: its plain gradient in theta .*1: torch\.Tensor\.detach holds constant")
def a_layer_that_cuts(p):
    p.__init__(nn.Sequential(nn.Linear(3, 4), Cut(), nn.Linear(4, 2)))


def own_target_of_the_batch(p, stop=lambda y: y.detach()):
    """A target of the learner's own, phi in the other view alone."""
    p.construct = lambda phi, b: {"x": b + phi["a"] * b.sin(), "y": b}
    p.pretrain_loss = lambda th, t: (p.f(th, t["x"]) - stop(p.f(th, t["y"]))).square().mean()


IN_THETA = (
    r"{}pretrain_loss: torch\.Tensor\.detach holds constant what depends on theta and not on phi"
)
for name, estimator in (
    ("unrolled 2", vfunc.Unrolled(2)),
    ("unrolled 2", vfunc.Unrolled(2, engine="forward")),
    ("implicit 10.0", vfunc.Implicit(10.0)),
    ("first_order", vfunc.FirstOrder(engine="finite_difference")),
    ("first_order", vfunc.FirstOrder(engine="forward")),
):

    @wrong(IN_THETA.format(f"{name}: "), f"own target of the batch, {estimator}")
    def _(p, estimator=estimator):
        own_target_of_the_batch(p)
        p.estimator = estimator


@wrong(r"plain gradient in theta .*; look at the autograd function Twice")
def a_wrong_function_beside_a_stop_gradient(p):
    own_target_of_the_batch(p)
    plain = p.pretrain_loss
    p.pretrain_loss = lambda th, t: plain(th, t) + Twice.apply(p.f(th, t["x"])).square().mean()


@wrong(r"plain gradient in theta .*; look at the autograd function Twice")
def a_wrong_function_beside_a_number_for_a_log(p):
    def pretrain_loss(theta, task):
        loss = Twice.apply(p.f(theta, task["x"])).square().mean()
        loss.detach().item()
        return loss

    p.construct = lambda phi, b: {"x": b, "y": b + phi["a"]}
    p.pretrain_loss = lambda th, t: pretrain_loss(th, t) + p.f(th, t["y"]).square().mean()


@wrong("wrong by .*estimator's own arithmetic; pretrain_loss: torch.Tensor.detach")
def an_estimator_that_lacks_it(p):
    own_target_of_the_batch(p)
    p.estimator = steps_by_autograd


def steps_by_autograd(problem, theta, phi):
    """Two plain gradient steps, differentiated by autograd, which the second needs right."""
    phi = trees.leaves(phi)
    at = trees.leaves(theta)
    for batch in problem.batches:
        loss = problem.pretrain(at, problem.construct(phi, batch))
        g = torch.autograd.grad(loss, list(at.values()), create_graph=True)
        at = {n: x - 0.3 * d for (n, x), d in zip(at.items(), g, strict=True)}
    value = problem.feedback_loss(theta) - problem.feedback_loss(at)
    grad = trees.gradient(value, phi)
    return vfunc.ValueEstimate(value.detach(), value.detach(), grad, 1.0, {})


@wrong(r"feedback_loss: its plain gradient in theta .*Tensor\.detach holds constant")
def feedback_weighted_by_a_constant(p):
    plain = p.feedback_loss
    p.feedback_loss = lambda th: plain(th) * (1 + plain(th).detach())


@wrong(r"feedback_loss: its plain gradient in theta .*Tensor\.item holds constant")
def feedback_weighted_by_a_number(p):
    plain = p.feedback_loss
    p.feedback_loss = lambda th: plain(th) * (1 + plain(th).item())


@wrong(r"feedback_loss: its plain gradient in theta .*under torch\.no_grad")
def feedback_weighted_under_no_grad(p):
    plain = p.feedback_loss

    def feedback_loss(theta):
        with torch.no_grad():
            weight = plain(theta) + 1
        return plain(theta) * weight

    p.feedback_loss = feedback_loss


# -- the designer ---------------------------------------------------------------------------------


def designed(how: Callable[[Any, Any], Any]):
    def change(p):
        p.construct = lambda phi, b: {"x": how(phi["a"], b), "y": b + phi["b"] * b.cos()}

    return change


for name, how in (
    ("a designer that detaches", lambda a, b: b + a * b.sin() + a.detach() * b),
    ("a designer that takes data", lambda a, b: b + a * b.sin() + a.data * b),
    ("a designer that takes numbers", lambda a, b: b + a * b.sin() + a.sum().item() * b),
    ("a designer with a wrong backward", lambda a, b: b + Scaled(1.01)(a) * b),
):
    wrong(r"the task's 'x' in phi's 'a' is not its slope", name)(designed(how))


@wrong(r"construct's 'y' depends differentiably on the learner's")
def a_target_that_is_attached(p):
    p.construct = lambda phi, b: {"x": b + phi["a"] * b.sin(), "y": p.module(b + phi["a"])}
    p.pretrain_loss = lambda th, t: (p.f(th, t["x"]) - t["y"]).square().mean()


# -- functions with wrong derivatives -------------------------------------------------------------


def through(function: Callable[[Any], Any], engine: str = "auto"):
    def change(p):
        p.pretrain_loss = lambda th, t: (
            (function(p.f(th, t["x"])) - p.teacher(t["y"])).square().mean()
        )
        p.estimator = vfunc.FirstOrder(engine=engine)

    return change


for factor in (1.01, -1.0, 0.5):
    wrong("in theta is not its slope.*look at the autograd function Sine",
          f"a backward {factor} times")(through(Scaled(first=factor)))  # fmt: skip
    wrong(r"engine 'reverse': wrong by .* at (Sine|Backward)",
          f"a double backward {factor} times")(through(Scaled(second=factor), "reverse"))  # fmt: skip
    wrong(r"engine 'forward': wrong by .* at (Sine|Backward)",
          f"a tangent {factor} times")(through(Scaled(tangent=factor), "forward"))  # fmt: skip


@wrong("feedback_loss: its plain gradient .*look at the autograd function Sine")
def a_feedback_with_a_wrong_backward(p):
    p.feedback_loss = lambda th: Scaled(0.9)(p.f(th, p.x) - p.y).square().mean()


# -- the optimizer's rule -------------------------------------------------------------------------


@dataclass(frozen=True)
class WrongRule:
    """Momentum with a pullback that is wrong by factors."""

    lr: float = 0.3
    g: float = 1.0
    p: float = 1.0
    buffer: float = 1.0
    inner: Any = field(default_factory=lambda: vfunc.SGD(0.3, 0.9, weight_decay=0.1))

    def step(self, p, state, g):
        return self.inner.step(p, state, g)

    def vjp(self, p, state, g, p_bar, buffers_bar):
        p_bar, before, g_bar = self.inner.vjp(p, state, g, p_bar, buffers_bar)
        return self.p * p_bar, {k: self.buffer * x for k, x in before.items()}, self.g * g_bar


def ruled(value="preconditioned", **factors):
    def change(p):
        p.rule = WrongRule(**factors)
        p.state = {n: vfunc.simulate.TensorState(1, {"momentum_buffer": torch.ones_like(x)})
                   for n, x in p.f.theta.items()}  # fmt: skip
        p.estimator = vfunc.FirstOrder(value)

    return change


for part, where in (("g", "the gradient"), ("p", "theta"), ("buffer", "the optimizer's buffers")):
    for factor in (1.1, -1.0):
        wrong(f"the rule WrongRule: its vjp is not the pullback of its step in {where}",
              f"a rule {factor} times in {part}")(ruled(**{part: factor}))  # fmt: skip

# -- declared forms -------------------------------------------------------------------------------


def linear(coefficients: Callable[[Plain, Any, Any], Any]):
    def change(p):
        p.construct = lambda phi, b: {"x": b, "q": (b + phi["a"])[:, :2]}
        p.pretrain_loss = lambda th, t: (t["q"] * p.f(th, t["x"])).sum()
        p.more = {"linear": vfunc.LinearForm("q", lambda th, t: coefficients(p, th, t))}

    return change


for name, said, coefficients in (
    ("coefficients that are detached", "linear: its gradient in theta .*Tensor.detach holds",
     lambda p, th, t: p.f(th, t["x"]).detach()),
    ("coefficients of another size", "linear: <q, coefficients> is not L_pre",
     lambda p, th, t: 2 * p.f(th, t["x"])),
    ("coefficients that read q", "linear: its coefficients read 'q'",
     lambda p, th, t: p.f(th, t["x"]) * t["q"]),
    ("coefficients half detached", "linear: its gradient in theta .*Tensor.detach holds",
     lambda p, th, t: 0.5 * p.f(th, t["x"]) + 0.5 * p.f(th, t["x"]).detach()),
):  # fmt: skip
    wrong(said, name)(linear(coefficients))


def composite(outputs: Callable[[Plain, Any, Any], Any], loss: Callable[[Plain, Any, Any], Any]):
    def change(p):
        p.more = {
            "composite": vfunc.CompositeForm(
                lambda th, t: outputs(p, th, t), lambda z, t: loss(p, z, t)
            )
        }
        p.estimator = vfunc.Implicit(10.0, curvature="gauss_newton")

    return change


def _outputs(p, th, t):
    return p.f(th, t["x"])


def _outputs_under_no_grad(p, th, t):
    with torch.no_grad():
        return p.f(th, t["x"])


def _loss(p, z, t):
    return (z - p.teacher(t["y"])).square().mean()


for name, said, change in (
    ("outputs that are detached", "composite: its gradient .*Tensor.detach holds",
     composite(lambda p, th, t: p.f(th, t["x"]).detach(), _loss)),
    ("outputs under no grad", "composite: its gradient .*under torch.no_grad",
     composite(_outputs_under_no_grad, _loss)),
    ("a loss that detaches its residual", "composite: .*second derivative .*Tensor.detach",
     composite(_outputs, lambda p, z, t: _half_detached(z - p.teacher(t["y"])))),
    ("a loss that detaches its outputs", "composite: its gradient",
     composite(_outputs, lambda p, z, t: _loss(p, z.detach(), t))),
    ("a composite of another size", r"composite: loss\(outputs\(theta, task\), task\) is not",
     composite(_outputs, lambda p, z, t: 2 * _loss(p, z, t))),
):  # fmt: skip
    wrong(said, name)(change)


def _half_detached(r):
    """Right in value and gradient, half of it in the second derivative."""
    return (2 * r * r.detach() - r.detach().square()).mean()


def parts(terms: Callable[[Any], Any]):
    def change(p):
        p.more = {"parts": lambda th, t: terms((p.f(th, t["x"]) - p.teacher(t["y"])).square())}

    return change


for name, said, terms in (
    ("parts that are detached", "parts: its gradient in theta .*Tensor.detach holds",
     lambda r: r.mean(1).detach() / 5),
    ("parts of another sum", "parts: their sum is not L_pre", lambda r: r.mean(1)),
):  # fmt: skip
    wrong(said, name)(parts(terms))

# -- state ----------------------------------------------------------------------------------------


@wrong("pretrain_loss does not repeat itself: it draws at 1: torch.nn.functional.dropout")
def dropout(p):
    p.__init__(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)))


@wrong("construct does not repeat itself")
def noise_in_the_task(p):
    p.construct = lambda phi, b: {"x": b + phi["a"] + 0.1 * torch.randn(3), "y": b + phi["b"]}


@wrong("(does not repeat itself|gives another number).*('average' of Ema|Ema)")
def a_moving_average(p):
    p.__init__(Ema())


@wrong("does not repeat itself: 'average' of AddedEma has changed")
def a_moving_average_that_is_added(p):
    class AddedEma(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.average = nn.Linear(3, 2), 0.0

        def forward(self, x):
            y = self.inner(x)
            self.average = 0.9 * self.average + 0.1 * float(y.detach().mean())
            return y.tanh() + self.average

    p.__init__(AddedEma())


for every in (7, 40):

    @wrong(
        r"(repeat itself|gives another number).*'calls' of Counting( '\w*')? has changed",
        f"every {every}th call",
    )
    def counted(p, every=every):
        p.__init__(Counting(every))


@wrong("feedback_loss gives another number by now")
def a_feedback_that_drifts(p):
    plain, calls = p.feedback_loss, []

    def feedback_loss(theta):
        calls.append(1)
        return plain(theta) * (1.0 if len(calls) < 8 else 1.5)

    p.feedback_loss = feedback_loss


CALLS = 0


def _of_a_global():
    global CALLS
    CALLS = 0

    def counted():
        global CALLS
        CALLS += 1
        return CALLS

    return counted


class Slotted:
    __slots__ = ("calls",)

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.calls


def _in_a_cell():
    calls = 0

    def counted():
        nonlocal calls
        calls += 1
        return calls

    return counted


def _of_its_own():
    def counted():
        counted.calls += 1
        return counted.calls

    counted.calls = 0
    return counted


def _in_a_tensor():
    calls = torch.zeros(())
    return lambda: int(calls.add_(1))


def _written_unseen():
    calls = torch.zeros(())

    def counted():
        calls.data.add_(1)
        return int(calls)

    return counted


def _in_a_list():
    calls = []

    def counted():
        calls.append(1)
        return len(calls)

    return counted


def _numbers():
    calls = 0
    while True:
        calls += 1
        yield calls


def _yielded():
    return partial(next, _numbers())


def _of_itertools():
    return partial(next, itertools.count(1))


class Kept(nn.Module):
    def __init__(self):
        super().__init__()
        self._calls = [0]

    def forward(self):
        self._calls[0] += 1
        return self._calls[0]


class Classed:
    kept: ClassVar = {"calls": 0}

    def __call__(self):
        self.kept["calls"] += 1
        return self.kept["calls"]


def _of_a_class():
    Classed.kept["calls"] = 0
    return Classed()


class Hidden:
    __slots__ = ("__calls",)

    def __init__(self):
        self.__calls = 0

    def __call__(self):
        self.__calls += 1
        return self.__calls


def _beyond_the_first_entries():
    calls = [0] * 100

    def counted():
        calls[99] += 1
        return calls[99]

    return counted


def _in_a_set():
    calls = {0}

    def counted():
        calls.add(calls.pop() + 1)
        return max(calls)

    return counted


def _in_a_parameter():
    calls = nn.Parameter(torch.zeros(()))

    def counted():
        calls.data.add_(1)
        return int(calls)

    return counted


class Deep:
    def __init__(self, depth):
        self.inner = Deep(depth - 1) if depth else Slotted()

    def __call__(self):
        return self.inner()


class Held(nn.Module):
    """An attribute that is an object."""

    def __init__(self):
        super().__init__()
        self.counter = Slotted()

    def forward(self):
        return self.counter()


def _in_a_hook():
    counter, module = Slotted(), nn.Identity()
    module.register_forward_hook(lambda module, args, out: out + counter())
    return lambda: int(module(torch.zeros(())))


def _in_a_dictionary():
    kept = {"by": {"calls": 0}}

    def counted():
        kept["by"]["calls"] += 1
        return kept["by"]["calls"]

    return counted


def later(asked: str, make: Callable[[], Callable[[], int]], becomes_other: Callable[[int], bool]):
    """A function of the problem gives other numbers at some of its calls."""

    def change(p):
        plain, counted = getattr(p, asked), make()

        def function(*given):
            found, factor = plain(*given), 1.5 if becomes_other(counted()) else 1.0
            return trees.scale(found, factor) if isinstance(found, dict) else found * factor

        setattr(p, asked, function)

    return change


def _from_3(n):
    return n >= 3


def _from_30(n):
    return n >= 30


def _every_40th(n):
    return n % 40 == 39


for asked, name, said, make, becomes_other in (
    ("feedback_loss", "of a global", "global 'CALLS'", _of_a_global, _every_40th),
    ("pretrain_loss", "of an object with slots", "'calls' of Slotted", Slotted, _from_30),
    ("construct", "in a cell", "'calls' of counted", _in_a_cell, _from_3),
    ("feedback_loss", "of a function's own", "'calls' of counted", _of_its_own, _from_30),
    ("feedback_loss", "in a tensor", "'calls' of <lambda>", _in_a_tensor, _every_40th),
    ("pretrain_loss", "in a tensor's data", "'calls' of counted", _written_unseen, _from_3),
    ("pretrain_loss", "in a list", "length of 'calls' of counted", _in_a_list, _every_40th),
    ("construct", "of itertools", "'counted' of function", _of_itertools, _from_30),
    ("feedback_loss", "of a generator", "'calls' of _numbers", _yielded, _from_30),
    ("pretrain_loss", "of a class", r"'kept' of Classed\['calls'\]", _of_a_class, _every_40th),
    ("feedback_loss", "in a slot of its own", "'_Hidden__calls' of Hidden", Hidden, _from_30),
    ("construct", "beyond the first entries", "what is in 'calls'", _beyond_the_first_entries,
     _every_40th),
    ("feedback_loss", "in a set", "what is in 'calls'", _in_a_set, _every_40th),
    ("pretrain_loss", "in a parameter", "'calls' of counted", _in_a_parameter, _from_30),
    ("feedback_loss", "deep in objects", "'calls' of Slotted", partial(Deep, 6), _every_40th),
    ("feedback_loss", "in a module's object", "'calls' of Slotted", Held, _from_30),
    ("feedback_loss", "in a hook", "'calls' of Slotted", _in_a_hook, _every_40th),
    ("feedback_loss", "in a module's list", r"'_calls' of Kept\[0\]", Kept, _from_30),
    ("feedback_loss", "in dictionaries", r"'kept' of counted\['by'\]\['calls'\]",
     _in_a_dictionary, _from_30),
):  # fmt: skip
    wrong(f"{asked} gives another number by now.*{said}.* has changed", f"a count {name}")(
        later(asked, make, becomes_other)
    )


# -- live modules in place of theta ---------------------------------------------------------------


@wrong("pretrain_loss uses the live parameter '0.weight' in place of theta's")
def a_live_learner(p):
    p.pretrain_loss = lambda th, t: (p.module(t["x"]) - p.teacher(t["y"])).square().mean()


@wrong("feedback_loss uses the live parameter '0.weight' in place of theta's")
def a_live_learner_in_the_feedback(p):
    p.feedback_loss = lambda th: (p.module(p.x) - p.y).square().mean()


@wrong("pretrain_loss uses the live parameter '2.weight' in place of theta's")
def a_live_layer(p):
    def pretrain_loss(theta, task):
        hidden = F.linear(task["x"], theta["0.weight"], theta["0.bias"]).tanh()
        return (p.module[2](hidden) - p.teacher(task["y"])).square().mean()

    p.pretrain_loss = pretrain_loss


@wrong("pretrain_loss does not depend on theta")
def a_loss_without_theta(p):
    p.pretrain_loss = lambda th, t: p.teacher(t["y"]).square().mean()


# -- estimators -----------------------------------------------------------------------------------


def answering(change: Callable[[Any], Any]):
    def keep(p):
        inner = vfunc.FirstOrder()
        p.estimator = lambda problem, theta, phi: change(inner(problem, theta, phi))

    return keep


for name, said, how in (
    ("an estimate of twice the gradient", "reverse. is right on this problem, so it is the estimator's own",
     lambda e: replace(e, grad=trees.scale(e.grad, 2.0))),
    ("an estimate of the other sign", "reverse. is right on this problem, so it is the estimator's own",
     lambda e: replace(e, grad=trees.scale(e.grad, -1.0))),
    ("an estimate without one parameter", "<grad, direction> is",
     lambda e: replace(e, grad=e.grad | {"a": torch.zeros(3)})),
    ("an estimate that is no number", "not finite: grad of 'a'",
     lambda e: replace(e, grad=e.grad | {"a": torch.full((3,), torch.nan)})),
    ("an estimate that draws", "asked the same again, it answers otherwise",
     lambda e: replace(e, grad=trees.scale(e.grad, 1 + float(torch.rand(()))))),
):  # fmt: skip
    wrong(said, name)(answering(how))


class Doubled(torch.optim.Adam):
    """A step of its own, under a name that a simulation knows."""

    def step(self, closure=None):
        super().step()
        return super().step()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: torch.optim.SGD(p, 0.3), None),
        (lambda p: torch.optim.SGD(p, 0.4), "0.weight"),
        (lambda p: Doubled(p, 0.3), "step"),
        (lambda p: torch.optim.AdamW(p, 0.3), "0.weight"),
    ],
    ids=["the same", "another rate", "a step of its own", "another kind"],
)
def test_the_live_optimizer_is_asked(make, said):
    plain = Plain()
    problem = vfunc.ValueProblem(
        plain.construct, plain.pretrain_loss, plain.feedback_loss, plain.batches,
        vfunc.UpdateRule(plain.rule),
    )  # fmt: skip
    optimizer = make(plain.module.parameters())
    asked = {"optimizer": optimizer, "parameters": plain.f.live, "directions": 1, "quiet": True}
    if said is None:
        found = vfunc.certify(problem, plain.f.theta, plain.phi, vfunc.FirstOrder(), **asked)
        assert "the simulated step is the optimizer's own" in str(found)
        return
    with pytest.raises(vfunc.CertificationError, match=said):
        vfunc.certify(problem, plain.f.theta, plain.phi, vfunc.FirstOrder(), **asked)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_caught_and_named(name):
    change, said = WRONG[name]
    plain = Plain()
    change(plain)
    with pytest.raises(vfunc.CertificationError, match=f"(?s){said}"):
        plain.certify()


# -- right ones -----------------------------------------------------------------------------------


class Seen(nn.Module):
    """A layer between two others, on sequences of a batch where it wants them."""

    def __init__(self, layer, sequences=False):
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(3, 4), layer, nn.Linear(4, 2)
        self.sequences = sequences

    def forward(self, x):
        h = self.first(x)
        h = self.layer(h[None])[0] if self.sequences else self.layer(h)
        h = h[0] if isinstance(h, tuple) else h
        return self.last(h[0] if self.sequences and h.ndim == 3 else h)


class Turned(nn.Module):
    """A recurrent layer's outputs without its state."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0][None]


def encoder():
    return nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True).eval()


def normed(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nn.utils.parametrizations.weight_norm(layer)


LAYERS = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "layer norm": lambda: nn.LayerNorm(4),
    "rms norm": lambda: nn.RMSNorm(4),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "batch norm": lambda: nn.BatchNorm1d(4).eval(),
    "dropout, off": lambda: nn.Dropout(0.5).eval(),
    "weight norm": lambda: normed(nn.Linear(4, 4)),
    "softmax": lambda: nn.Softmax(-1),
}
SEQUENTIAL = {
    "lstm": lambda: Turned(nn.LSTM(4, 4, batch_first=True)),
    "encoder": encoder,
}
ESTIMATORS = {
    "dot": vfunc.FirstOrder(),
    "cosine": vfunc.FirstOrder("cosine"),
    "unrolled": vfunc.Unrolled(2),
}
RULES = {
    "dot": vfunc.SGD(0.3),
    "cosine": vfunc.AdamW(0.1),
    "unrolled": vfunc.SGD(0.3, 0.9, nesterov=True, weight_decay=0.1),
}


@pytest.mark.parametrize(
    ("name", "estimator"),
    [*((n, e) for n in LAYERS for e in ESTIMATORS), *((n, "dot") for n in SEQUENTIAL)],
)
def test_right_learners_are_not_accused(name, estimator):
    torch.manual_seed(1)
    make = LAYERS.get(name) or SEQUENTIAL[name]
    plain = Plain(Seen(make(), name in SEQUENTIAL))
    plain.estimator, plain.rule = ESTIMATORS[estimator], RULES[estimator]
    plain.certify()


RIGHT: dict[str, Callable[[Plain], Any]] = {}
ODD = odd_objects()


def right(change):
    RIGHT[change.__name__.replace("_", " ")] = change
    return change


@right
def a_maximum_that_cancels(p):
    def pretrain_loss(theta, task):
        z = p.f(theta, task["x"]) + p.teacher(task["y"])
        top = z.max(-1, keepdim=True).values.detach()
        return ((z - top).exp().sum(-1).log() + top[:, 0]).mean()

    p.pretrain_loss = pretrain_loss


@right
def a_detached_number_for_a_log(p):
    seen, plain = [], p.pretrain_loss

    def pretrain_loss(theta, task):
        loss = plain(theta, task)
        seen.append(loss.detach().item())
        return loss

    p.pretrain_loss = pretrain_loss


def _without_a_graph(y):
    with torch.no_grad():
        return 2 * y


for name, change in (
    ("a target network", own_target_of_the_batch),
    ("a target network, one lookahead step",
     lambda p: own_target_of_the_batch(p) or setattr(p, "estimator", vfunc.Unrolled(1))),
    ("a target network, cosine",
     lambda p: own_target_of_the_batch(p) or setattr(p, "estimator", vfunc.FirstOrder("cosine"))),
    ("a target network, preconditioned", lambda p: own_target_of_the_batch(p) or vars(p).update(
        rule=vfunc.AdamW(0.1), estimator=vfunc.FirstOrder("preconditioned"))),
    ("a target network's data", lambda p: own_target_of_the_batch(p, lambda y: y.data)),
    ("a target network under no grad", lambda p: own_target_of_the_batch(p, _without_a_graph)),
    ("half of a target network",
     lambda p: own_target_of_the_batch(p, lambda y: 0.5 * y + 0.5 * y.detach())),
    ("a number of the learner's", lambda p: own_target_of_the_batch(
        p, lambda y: y.square().mean().item())),
    ("a list of the learner's", lambda p: own_target_of_the_batch(
        p, lambda y: torch.tensor(y.tolist()))),
    ("an array of the learner's", lambda p: own_target_of_the_batch(
        p, lambda y: torch.tensor(y.detach().numpy() * 2))),
    ("a custom function behind a stop-gradient",
     lambda p: own_target_of_the_batch(p, lambda y: Twice.apply(y).detach())),
    ("in place behind a stop-gradient",
     lambda p: own_target_of_the_batch(p, lambda y: (2 * y).detach_())),
):  # fmt: skip
    RIGHT[name] = change


@right
def a_frozen_teacher_that_phi_does_not_reach(p):
    def pretrain_loss(theta, task):
        with torch.no_grad():
            wanted = p.teacher(task["y"])
        return (p.f(theta, task["x"]) - wanted).square().mean()

    p.construct = lambda phi, b: {"x": b + phi["a"] * b.sin(), "y": b}
    p.pretrain_loss = pretrain_loss


@right
def a_target_network_and_forms(p):
    own_target_of_the_batch(p)

    def terms(theta, task):
        apart = p.f(theta, task["x"]) - p.f(theta, task["y"]).detach()
        return apart.square().mean(1) / 5

    p.more = {"parts": terms}


@right
def every_estimator_on_a_target_network(p):
    own_target_of_the_batch(p)
    p.estimator = None


@right
def theta_held_as_an_argument(p):
    p.pretrain_loss = lambda th, t, h: (p.f(th, t["x"]) - p.f(h, t["y"])).square().mean()
    p.more = {"stop_gradient": True}


@right
def theta_held_and_looked_ahead(p):
    theta_held_as_an_argument(p)
    p.estimator = vfunc.Unrolled(2)


@right
def a_teacher_of_the_same_numbers(p):
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).requires_grad_(False)
    p.pretrain_loss = lambda th, t: (p.f(th, t["x"]) - teacher(t["y"])).square().mean()


@right
def a_trainable_teacher(p):
    teacher = nn.Linear(3, 2)
    p.pretrain_loss = lambda th, t: (p.f(th, t["x"]) - teacher(t["y"])).square().mean()


@right
def a_hard_choice(p):
    p.pretrain_loss = lambda th, t: (
        p.f(th, t["x"]) * (t["y"][:, :2] > 0.1) + p.f(th, t["x"]).square()
    ).mean()


@right
def a_target_of_the_live_learner_that_is_detached(p):
    p.construct = lambda phi, b: {"x": b + phi["a"], "y": p.module(b).detach() + phi["b"][:2]}
    p.pretrain_loss = lambda th, t: (p.f(th, t["x"]) - t["y"]).square().mean()


@right
def a_linear_form(p):
    linear(lambda p, th, t: p.f(th, t["x"]))(p)


@right
def a_composite_form(p):
    composite(_outputs, _loss)(p)


@right
def parts_of_examples(p):
    parts(lambda r: r.mean(1) / 5)(p)


@right
def a_right_rule(p):
    ruled()(p)


@right
def a_right_custom_function(p):
    through(Scaled(), "reverse")(p)


@right
def a_right_tangent(p):
    through(Scaled(), "forward")(p)


@right
def a_part_of_the_learner(p):
    p.f = vfunc.functional(p.module, "re:2")


@right
def a_step_of_zero(p):
    p.rule = vfunc.SGD(0.0)


@right
def implicit(p):
    p.estimator = vfunc.Implicit(10.0)


@right
def the_preconditioned_value(p):
    p.rule, p.estimator = vfunc.AdamW(0.1), vfunc.FirstOrder("preconditioned")


@right
def finite_differences(p):
    p.estimator = vfunc.FirstOrder(engine="finite_difference")


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_not_accused(name):
    plain = Plain()
    RIGHT[name](plain)
    found = plain.certify()
    assert found.certified or found.estimators[0].verdict == "inconclusive"


def test_there_are_enough_of_both():
    assert len(WRONG) >= 50
    assert len(RIGHT) + len(ESTIMATORS) * len(LAYERS) + len(SEQUENTIAL) >= 50


def test_where_every_estimator_is_skipped_nothing_is_certified(monkeypatch):
    def refuse(*args):
        raise vfunc.UserError("it has no derivative")

    @dataclasses.dataclass(frozen=True)
    class Refusing:
        def __call__(self, problem, theta, phi):
            return refuse()

    for name in list(vfunc.ESTIMATORS):
        monkeypatch.delitem(vfunc.ESTIMATORS, name)
    monkeypatch.setitem(vfunc.ESTIMATORS, "refusing", Refusing)
    plain = Plain()
    plain.estimator = None
    with pytest.raises(vfunc.CertificationError, match="nothing was certified: it has no deriv"):
        plain.certify()


@pytest.mark.parametrize("name", ODD)
def test_objects_that_raise_are_passed_by(name):
    plain = Plain()
    loss, reached = plain.pretrain_loss, ODD[name]

    def pretrain_loss(theta, task):
        _ = reached
        return loss(theta, task)

    plain.pretrain_loss = pretrain_loss
    plain.certify()
