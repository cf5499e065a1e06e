"""The count of operations: products by their formula, a CPU's fused attention, double backwards."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from vfunc.evaluation.flops import flops_of

QKV = (2, 3, 5, 4)  # batch, heads, tokens, width of a head
PRODUCT = 2 * 2 * 3 * 5 * 5 * 4


def test_a_product_its_gradient_and_a_double_backward():
    w, x = torch.randn(3, 4, requires_grad=True), torch.randn(5, 3)
    product = 2 * 5 * 3 * 4
    assert flops_of(lambda: x @ w) == product
    assert flops_of(lambda: (x @ w).square().sum().backward()) == 2 * product

    def twice():
        (g,) = torch.autograd.grad((x @ w).square().sum(), w, create_graph=True)
        g.square().sum().backward()

    # forward, backward, d of the backward in what came down, and of the forward
    assert flops_of(twice) == 4 * product


def test_nothing_else_counts():
    x = torch.randn(7)
    assert flops_of(lambda: (x * x).sum().exp()) == 0


@pytest.mark.parametrize(
    ("kernel", "backward"), [(SDPBackend.MATH, 4), (SDPBackend.FLASH_ATTENTION, 5)]
)
def test_attention_of_a_cpu_whichever_kernel_it_takes(kernel, backward):
    q, k, v = (torch.randn(QKV, requires_grad=True) for _ in range(3))
    with sdpa_kernel(kernel):
        assert flops_of(lambda: F.scaled_dot_product_attention(q, k, v)) == 2 * PRODUCT

        def both():
            F.scaled_dot_product_attention(q, k, v).sum().backward()

        # the fused one computes its scores again
        assert flops_of(both) == (2 + backward) * PRODUCT
