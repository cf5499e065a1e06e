"""The looks at a loss are taken anew for each piece of code: what tells one from another."""

from __future__ import annotations

import dataclasses
import enum
import functools
import gc
import types
import weakref
from collections import OrderedDict

import measures
import pytest
import torch

import vfunc
from vfunc.problem import pieces_of_code
from vfunc.problem.pieces_of_code import MOST_PARTS, MOST_VARIANTS, code_of

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def _unseen(monkeypatch):
    """The losses of all these tests are one piece of code in many settings."""
    monkeypatch.setattr(pieces_of_code, "_faces", OrderedDict())


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
        pieces_of_code._faces.clear()
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


class Batch:
    """What a loop makes anew at each step."""

    def __init__(self, step):
        self.x = torch.full((4, 3), 0.1 * step)
        self.names = [f"document {step}-{i}" for i in range(4)]
        self.title, self.label = f"batch {step}", step % 10


def test_what_is_data_ends_to_count():
    """Looks cost a score of forwards each: a loss on a batch object is not new at every step."""

    def on(batch):
        return lambda theta, task: (batch.x @ theta["W"]).sum()

    assert len({code_of(on(Batch(step))) for step in range(50)}) <= MOST_VARIANTS + 1

    def switched(batch, stop):
        return lambda theta, task: held(theta, task, stop)

    for step in range(50):  # and what is code still does
        code_of(switched(Batch(step), False))
    assert code_of(switched(Batch(50), False)) != code_of(switched(Batch(50), True))


def test_nothing_is_kept_alive():
    def made(weight):
        class Local(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x * 1

            @staticmethod
            def backward(ctx, g):
                return g * weight.mean()

        return lambda theta, task: Local.apply(theta["W"]).sum()

    weight = torch.ones(3)
    gone = weakref.ref(weight)
    codes = [code_of(made(weight))]
    assert codes == [code_of(made(torch.zeros(3)))]  # a class made anew is the same code
    del weight
    gc.collect()
    assert gone() is None


def test_functions_and_switches_count_beyond_what_is_looked_at():
    many = [types.SimpleNamespace(a=[object() for _ in range(30)]) for _ in range(30)]
    assert MOST_PARTS / 4 < 30 * 30
    big = [many, [*many], types.SimpleNamespace(more=[[*many] for _ in range(30)])]

    def with_one(one):
        return lambda theta: (big, one)

    assert code_of(with_one(torch_sin)) != code_of(with_one(torch_cos))
    wide = {f"w{i}": object() for i in range(60)}
    one, other = (types.SimpleNamespace(**wide, last=flag) for flag in (True, False))
    assert code_of(with_one(one)) != code_of(with_one(other))


def torch_sin(x):
    return x.sin()


def torch_cos(x):
    return x.cos()


def test_what_raises_or_has_no_hash_is_no_end_of_it():
    class Dead:
        @property
        def __class__(self):
            raise RuntimeError("gone")

    class Meta(type):
        def __eq__(cls, other):
            return False

    class Unhashed(metaclass=Meta):
        pass

    for held_too in (Dead(), Unhashed, Unhashed(), float("nan"), {1: {2: 3}}):

        def with_it(stop, held_too=held_too):
            return lambda theta: (held_too, stop)

        assert hash(code_of(with_it(True))) != hash(code_of(with_it(False)))


class Mangled:
    __slots__ = ("__stop",)

    def __init__(self, stop):
        self.__stop = stop


def test_so_do_names_of_keywords_slots_and_methods_of_c():
    def base(**how):
        return how

    assert code_of(functools.partial(base, stop=True)) != code_of(functools.partial(base, go=True))
    assert code_of(closed_over(Mangled(True), len)) != code_of(closed_over(Mangled(False), len))
    detach, clone = torch.Tensor.detach, torch.Tensor.clone
    assert code_of(closed_over(detach, len)) != code_of(closed_over(clone, len))
    float32, float64 = torch.float32, torch.float64
    assert code_of(closed_over(float32, len)) != code_of(closed_over(float64, len))
