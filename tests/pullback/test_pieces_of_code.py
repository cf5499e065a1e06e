"""The looks at a loss are taken anew for each piece of code: what tells one from another."""

from __future__ import annotations

import dataclasses
import enum
import types

import measures
import pytest
import torch

import vfunc
from vfunc.problem.purity import code_of

pytestmark = pytest.mark.usefixtures("float64")


@dataclasses.dataclass
class Settings:
    stop: bool


class Slotted:
    __slots__ = ("stop",)

    def __init__(self, stop):
        self.stop = stop


class Way(enum.Enum):
    STOPPED = "a"
    FREE = "b"


class Owner:
    """An ordinary class whose method is the loss."""

    def __init__(self, stop):
        self.stop = stop

    def loss(self, theta, task):
        return held(theta, task, self.stop)


def held(theta, task, stop):
    y = task["x"] @ theta["W"]
    return (y * torch.tanh(y.detach() if stop else y)).mean()


def closed_over(holder, asks):
    return lambda theta, task: held(theta, task, asks(holder))


WORD = "free"


def by_a_global_word(theta, task):
    return held(theta, task, WORD == "stopped")


MAKERS = {
    "a namespace": lambda s: closed_over(types.SimpleNamespace(stop=s), lambda h: h.stop),
    "a dataclass": lambda s: closed_over(Settings(s), lambda h: h.stop),
    "slots": lambda s: closed_over(Slotted(s), lambda h: h.stop),
    "nested": lambda s: closed_over(types.SimpleNamespace(cfg=Settings(s)), lambda h: h.cfg.stop),
    "a method": lambda s: Owner(s).loss,
    "a mode": lambda s: closed_over(2 if s else 1, lambda h: h == 2),
    "an enumeration": lambda s: closed_over(Way.STOPPED if s else Way.FREE, lambda h: h.value == "a"),
    "a set": lambda s: closed_over(frozenset({"stop"} if s else {"go"}), lambda h: "stop" in h),
    "a class": lambda s: closed_over(Settings if s else Owner, lambda h: h is Settings),
}  # fmt: skip


def estimated(loss):
    draw = measures.generator(0)
    theta = {"W": measures.normal(draw, 3, 2)}
    phi = {"a": measures.normal(draw, 3)}
    x = measures.normal(draw, 5, 3)
    problem = vfunc.ValueProblem(
        lambda phi, b: {"x": b + phi["a"] * b.sin()},
        loss,
        lambda theta: (x @ theta["W"]).square().mean(),
        (x,),
        vfunc.UpdateRule(vfunc.SGD(0.3)),
    )
    return vfunc.FirstOrder(engine="reverse")(problem, theta, phi)


@pytest.mark.parametrize("made", MAKERS.values(), ids=MAKERS)
def test_what_switches_a_stop_gradient_on_is_seen_after_the_loss_without_it(made):
    estimated(made(False))
    with pytest.raises(vfunc.UserError, match="a stop-gradient"):
        estimated(made(True))


def test_so_is_a_word_among_the_globals(monkeypatch):
    estimated(by_a_global_word)
    monkeypatch.setitem(globals(), "WORD", "stopped")
    with pytest.raises(vfunc.UserError, match="a stop-gradient"):
        estimated(by_a_global_word)


class Kept(torch.autograd.Function):
    """A square that keeps its input on ctx: its second derivative is lost."""

    @staticmethod
    def forward(ctx, x):
        ctx.a = x
        return x**2

    @staticmethod
    def backward(ctx, g):
        return 2 * ctx.a.detach() * g


class Saved(torch.autograd.Function):
    """The same by what torch saves."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0] * g


@pytest.mark.parametrize(
    "made",
    [
        lambda fn: lambda theta, task: fn.apply(task["x"] @ theta["W"]).mean(),
        lambda fn: (lambda call: lambda theta, task: call(task["x"] @ theta["W"]).mean())(fn.apply),
    ],
    ids=["the class", "its apply"],
)
def test_a_custom_function_is_looked_at_though_another_was(made):
    estimated(made(Saved))
    with pytest.raises(vfunc.UserError, match="Kept"):
        estimated(made(Kept))


def test_the_same_code_made_anew_is_the_same():
    for made in MAKERS.values():
        assert code_of(made(True)) == code_of(made(True)) != code_of(made(False))

    def counting(step, rate):
        return lambda theta: step * rate * theta

    assert code_of(counting(17, 0.1)) == code_of(counting(1000, 0.2))  # numbers are no modes
    assert code_of(counting(torch.ones(1), 1)) == code_of(counting(torch.zeros(2), 1))
    assert code_of(torch.sin) != code_of(torch.cos)


def test_a_ring_of_objects_ends():
    ring = types.SimpleNamespace(stop=True)
    ring.itself, ring.held = ring, [ring] * 8
    loss = closed_over(ring, by_a_global_word)
    assert code_of(loss) == code_of(loss)
