"""Frozen weights in forward mode: torch's derivatives, without products with zero tangents."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import vfunc
from vfunc import trees
from vfunc.learner import _constants
from vfunc.pullback.overridden.frozen_weights import followed, frozen_weights_once

IN, HIDDEN, OUT = 3, 5, 7
WAYS = {
    "linear": lambda h, w, b: F.linear(h, w, b),
    "linear without bias": lambda h, w, _: F.linear(h, w),
    "addmm": lambda h, w, b: torch.addmm(b, h.flatten(0, -2), w).view(*h.shape[:-1], OUT),
    "scaled addmm": lambda h, w, b: torch.addmm(b, h.flatten(0, -2), w, beta=2.0, alpha=0.5).view(
        *h.shape[:-1], OUT
    ),
    "matmul": lambda h, w, b: torch.matmul(h, w) + b,
    "method": lambda h, w, b: h.matmul(w) + b,
    "@": lambda h, w, b: h @ w + b,
    "@ on the left": lambda h, w, b: (w.mT @ h.mT).mT + b,
}


class Case:
    """A learned layer, a frozen one after it by `way`, and a loss that is not linear in `made`."""

    def __init__(self, way, lead, dtype=torch.float64, seed=0):
        draw = torch.Generator().manual_seed(seed)

        def drawn(*sizes):
            return torch.randn(*sizes, generator=draw, dtype=torch.float64).to(dtype)

        self.way, self.x = WAYS[way], drawn(*lead, IN)
        weight, self.bias = drawn(OUT, HIDDEN), drawn(OUT)
        self.weight = weight if "linear" in way else weight.mT.contiguous()
        self.theta, self.w = ({"first": drawn(HIDDEN, IN), "bias": drawn(HIDDEN)} for _ in range(2))
        self.made = {"x": drawn(*lead, IN), "q": drawn(*lead, OUT)}

    def loss(self, made, theta):
        h = F.linear(self.x + made["x"], theta["first"], theta["bias"]).tanh()
        return (self.way(h, self.weight, self.bias).log_softmax(-1) * made["q"]).square().sum()

    def products(self, hessian):
        """The engine's composition: jvp, in theta, of the gradient in the task (and in theta)."""
        wrt = (0, 1) if hessian else 0
        ask = torch.func.grad(self.loss, argnums=wrt)
        return trees.tangent_along(lambda theta: ask(self.made, theta), self.theta, self.w)


def flops(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("way", WAYS)
@given(
    st.sampled_from([(2,), (1,), (2, 3), (2, 1, 4)]),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_derivatives_are_torchs(way, lead, hessian, seed):
    case = Case(way, lead, seed=seed)
    want = case.products(hessian)
    with frozen_weights_once():
        got = case.products(hessian)
    for ours, theirs in zip(tree_leaves(got), tree_leaves(want), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("way", ["linear", "addmm", "matmul", "method", "@"])
@pytest.mark.parametrize("hessian", [False, True])
def test_two_of_six_products_are_left_out(way, hessian):
    case = Case(way, (2, 4))
    product = 2 * 8 * HIDDEN * OUT  # one product with the frozen weight
    want = flops(lambda: case.products(hessian))
    with frozen_weights_once():
        got = flops(lambda: case.products(hessian))
    assert want - got == 2 * product


@pytest.mark.parametrize("way", ["linear", "addmm", "@"])
def test_a_tangent_alone_takes_two_products(way):
    case = Case(way, (2, 4))

    def ask():
        return trees.tangent_along(lambda theta: case.loss(case.made, theta), case.theta, case.w)

    want, plain = ask(), flops(ask)
    with frozen_weights_once():
        got, ours = ask(), flops(ask)
    torch.testing.assert_close(got[1], want[1], rtol=1e-12, atol=1e-13)
    assert plain - ours == 2 * 8 * HIDDEN * OUT


def test_a_weight_that_moves_is_torchs():
    case = Case("linear", (2, 4))
    along = {"weight": torch.ones_like(case.weight), "bias": torch.ones_like(case.bias)}

    def loss(made, moved):
        return (F.linear(made["x"][..., :1].expand(2, 4, HIDDEN), **moved)).square().sum()

    def ask():
        at = {"weight": case.weight, "bias": case.bias}
        return trees.tangent_along(
            lambda moved: torch.func.grad(loss, argnums=(0, 1))(case.made, moved), at, along
        )

    want = ask()
    with frozen_weights_once():
        got = ask()
    for ours, theirs in zip(tree_leaves(got), tree_leaves(want), strict=True):
        assert torch.equal(ours, theirs)


ODD = {
    "addmm with factors by place": lambda h, w, b: torch.addmm(1, b, 1, h.flatten(0, -2), w.mT),
    "a row of biases each": lambda h, w, b: torch.addmm(b.expand(8, OUT), h.flatten(0, -2), w.mT),
    "one bias for all": lambda h, w, b: torch.addmm(b[:1], h.flatten(0, -2), w.mT),
    "matmul by name": lambda h, w, b: torch.matmul(h, other=w.mT) + b,
}


@pytest.mark.filterwarnings("ignore:This overload of addmm")
@pytest.mark.parametrize("odd", ODD)
def test_other_forms_of_the_calls_are_torchs(odd):
    case = Case("linear", (2, 4))
    turned = case.weight.mT.contiguous()
    case.way = lambda h, w, b: ODD[odd](h, turned.mT, b).view(2, 4, OUT)
    want = case.products(True)
    with frozen_weights_once():
        got = case.products(True)
    for ours, theirs in zip(tree_leaves(got), tree_leaves(want), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_a_bias_that_torch_refuses_is_refused():
    case = Case("linear", (2, 4))
    for bias in (torch.randn(2, 4, OUT + 1), case.bias.float(), torch.randn(2, 4, OUT).double()):
        case.bias = bias
        with frozen_weights_once(), pytest.raises(RuntimeError):
            case.products(False)


def test_within_vmap_and_vmapped_weights():
    case = Case("linear", (3,))
    several = torch.stack([case.weight, 2 * case.weight, -case.weight])

    def loss(made, theta, weights):
        def one(x, q, weight):
            h = F.linear(x, theta["first"], theta["bias"]).tanh()
            return (F.linear(h, weight).log_softmax(-1) * q).square().sum()

        dims = (0, 0, 0 if weights.ndim == 3 else None)
        return torch.func.vmap(one, dims)(made["x"], made["q"], weights).sum()

    for weights in (case.weight, several):

        def ask(weights=weights):
            gradient = torch.func.grad(lambda made, theta: loss(made, theta, weights), (0, 1))
            return trees.tangent_along(lambda theta: gradient(case.made, theta), case.theta, case.w)

        want = ask()
        with frozen_weights_once():
            got = ask()
        for ours, theirs in zip(tree_leaves(got), tree_leaves(want), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("way", ["linear", "addmm", "@"])
def test_under_autocast_it_computes_as_torch_does(way):
    case = Case(way, (2, 4), torch.float32)
    exact = Case(way, (2, 4)).products(True)
    dtypes = []

    def ask():
        with torch.autocast("cpu", torch.bfloat16):
            found = case.products(True)
            dtypes.append(case.way(case.x[..., :1].expand(2, 4, HIDDEN), case.weight, case.bias))
        return found

    want = ask()
    with frozen_weights_once():
        got = ask()
    for ours, theirs, right in zip(*map(tree_leaves, (got, want, exact)), strict=True):
        assert ours.dtype == theirs.dtype
        assert float((ours - right).norm() / right.norm()) < 0.05


def test_what_torch_refuses_is_refused_by_torch():
    case = Case("linear", (2, 4))
    case.weight = case.weight.float()
    with frozen_weights_once(), pytest.raises(RuntimeError, match="dtype"):
        case.products(False)


def test_a_functional_learners_frozen_weights_stay_plain_within_transforms():
    net = nn.Sequential(nn.Linear(IN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, OUT)).double()
    f = vfunc.functional(net, "re:^0")
    seen = []
    net[2].register_forward_pre_hook(lambda m, _: seen.append(m.weight))
    x = torch.randn(4, IN, dtype=torch.float64)

    def gradient(theta):
        return torch.func.grad(lambda theta: f(theta, x).square().sum())(theta)

    trees.tangent_along(gradient, f.theta, f.theta)
    (weight,) = seen
    assert not followed(weight) and not weight.requires_grad
    assert weight.data_ptr() == net[2].weight.data_ptr()
    with torch.no_grad():
        net[2].weight.add_(1)
    assert weight._version == net[2].weight._version  # writes to it are seen


def test_parameters_that_a_transform_follows_stay_its_own():
    """Outer transforms reach a learner's own parameters by `functional_call` of its owner."""
    weight = torch.randn(OUT, IN, dtype=torch.float64)

    def loss(w):
        (held,) = _constants({"w": w}).values()
        assert followed(held)
        return (held * w).sum()

    assert torch.equal(torch.func.grad(loss)(weight), weight)
