"""Attention's tangent in blocks: that of torch's forward mode, in less memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import vfunc
from vfunc import trees
from vfunc.evaluation.peak_bytes import counting_peak
from vfunc.pullback.overridden import attention
from vfunc.pullback.overridden.attention import attention_in_blocks

MASKS = ("none", "causal", "bool", "added", "all of a query")


@pytest.fixture(autouse=True)
def math_attention():
    """What torch has a forward mode for."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def case(seed, shape, size, mask, dtype=torch.float64, groups=1):
    """Queries, keys, values, their tangents, and the other arguments."""
    draw = torch.Generator().manual_seed(seed)
    batch, heads, length, width = shape

    def drawn(*sizes):
        return torch.randn(*sizes, generator=draw, dtype=torch.float64).to(dtype)

    def three():
        pairs = (batch, heads // groups, size)
        return drawn(batch, heads, length, width), drawn(*pairs, width), drawn(*pairs, width + 1)

    rest = {"is_causal": mask == "causal", "enable_gqa": groups > 1}
    if mask == "bool":
        rest["attn_mask"] = drawn(batch, 1, length, size) > 0
        rest["attn_mask"][..., 0] = True
    elif mask == "added":
        rest["attn_mask"] = drawn(length, size)
    elif mask == "all of a query":
        rest["attn_mask"] = torch.ones(length, size, dtype=torch.bool)
        rest["attn_mask"][0] = False
    return three(), three(), rest


def along(inputs, tangents, rest, which=(0, 1, 2)):
    """Output and tangent by forward mode, where those of `which` move."""

    def attended(moved):
        now = [moved.get(str(i), x) for i, x in enumerate(inputs)]
        return F.scaled_dot_product_attention(*now, **rest)

    theta, w = ({str(i): xs[i] for i in which} for xs in (inputs, tangents))
    return trees.tangent_along(attended, theta, w)


@given(
    st.integers(0, 10**6),
    st.sampled_from(MASKS),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([(0, 1, 2), (0,), (1,), (2,), (0, 2)]),
    st.sampled_from([1, 2]),
    st.sampled_from([2, 64, 2**18]),
    st.sampled_from([2, 128]),
)
def test_output_and_tangent_are_torchs(seed, mask, length, size, which, groups, block, queries):
    inputs, tangents, rest = case(seed, (2, 4, length, 3), size, mask, groups=groups)
    want = along(inputs, tangents, rest, which)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK", block)
        patch.setattr(attention, "QUERIES", queries)
        with attention_in_blocks():
            got = along(inputs, tangents, rest, which)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_in_low_precision_it_is_near_the_exact_one(dtype, near):
    inputs, tangents, rest = case(0, (2, 4, 33, 8), 33, "causal", dtype)
    exact = along([x.double() for x in inputs], [x.double() for x in tangents], rest)
    with attention_in_blocks():
        got = along(inputs, tangents, rest)
    for ours, right in zip(got, exact, strict=True):
        assert ours.dtype == dtype
        assert float((ours.double() - right).norm() / right.norm()) < near


def test_what_it_does_not_know_is_left_to_torch():
    inputs, tangents, _ = case(0, (2, 4, 5, 3), 5, "none")
    mask = torch.randn(5, 5, dtype=torch.float64)

    def in_mask(theta):
        return F.scaled_dot_product_attention(*inputs, attn_mask=theta["mask"])

    where = {"mask": mask}, {"mask": torch.ones_like(mask).tril()}
    want = trees.tangent_along(in_mask, *where)
    with attention_in_blocks():
        got = trees.tangent_along(in_mask, *where)
        plain = F.scaled_dot_product_attention(*inputs)
        torch.manual_seed(0)
        dropped = along(inputs, tangents, {"dropout_p": 0.5})
        leaf = inputs[0].clone().requires_grad_()
        graph = F.scaled_dot_product_attention(leaf, *inputs[1:])
    torch.manual_seed(0)
    for ours, theirs in zip(dropped, along(inputs, tangents, {"dropout_p": 0.5}), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(got[1], want[1]) and bool(got[1].any())
    assert torch.equal(plain, F.scaled_dot_product_attention(*inputs))
    assert graph.requires_grad


def test_scores_of_all_queries_do_not_exist():
    inputs, tangents, rest = case(0, (2, 4, 512, 4), 512, "causal", torch.float32)
    with counting_peak(torch.device("cpu")) as theirs:
        along(inputs, tangents, rest)
    with attention_in_blocks(), counting_peak(torch.device("cpu")) as ours:
        along(inputs, tangents, rest)
    assert ours.peak < 0.25 * theirs.peak


def test_the_linear_engine_takes_it(monkeypatch):
    """And no other: what is differentiated again is torch's."""
    calls = []
    taken = attention.attention_along
    monkeypatch.setattr(
        attention, "attention_along", lambda *a, **k: calls.append(1) or taken(*a, **k)
    )
    layer = torch.nn.Linear(4, 12).double()
    f = vfunc.functional(layer)

    def coefficients(theta, task):
        q, k, v = f(theta, task["x"]).unflatten(-1, (3, 2, 2)).movedim(-3, 0).transpose(-2, -3)
        return F.scaled_dot_product_attention(q, k, v).sum(-1).mean(-2)

    def pretrain_loss(theta, task):
        return (task["q"] * coefficients(theta, task)).sum()

    x = torch.randn(3, 5, 4, dtype=torch.float64)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    rule, state = vfunc.from_optimizer(optimizer, f.live)
    problem = vfunc.ValueProblem(
        lambda phi, x: {"x": x, "q": phi["q"]},
        pretrain_loss,
        lambda theta: theta["weight"].square().sum() + theta["bias"].sum(),
        (x,),
        rule,
        state,
        linear=vfunc.LinearForm("q", coefficients),
    )
    phi = {"q": torch.rand(3, 5, dtype=torch.float64)}
    found = {
        engine: vfunc.FirstOrder(engine=engine)(problem, f.theta, phi)
        for engine in ("reverse", "forward", "linear")
    }
    assert len(calls) == 1
    for estimate in found.values():
        torch.testing.assert_close(estimate.grad["q"], found["linear"].grad["q"])
