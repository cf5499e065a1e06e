"""Float32 code, given float64 numbers, computes in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vfunc.float64 import promote_float64

DOUBLE = torch.float64


def test_operands_casts_and_new_tensors_follow_float64():
    x, w = torch.ones(2, 3, dtype=DOUBLE), torch.ones(4, 3)
    with promote_float64():
        assert F.linear(x, w, torch.zeros(4)).dtype == DOUBLE
        assert torch.cat([x, w]).dtype == DOUBLE
        assert F.layer_norm(x, (3,), torch.ones(3), torch.zeros(3)).dtype == DOUBLE
        assert torch.einsum("ij,kj->ik", x, w).dtype == DOUBLE
        assert x.float().dtype == x.half().dtype == x.bfloat16().dtype == DOUBLE
        assert x.to(w.dtype).dtype == x.to(w).dtype == x.type_as(w).dtype == DOUBLE
        assert F.softmax(x, -1, dtype=torch.float32).dtype == DOUBLE
        assert torch.zeros(2).dtype == DOUBLE


def test_what_meets_no_float64_stays_as_it_is():
    with promote_float64():
        w = torch.ones(4, 3, dtype=torch.float32)
        assert (w @ w.T).dtype == torch.float32
        assert w.bfloat16().dtype == torch.bfloat16
        assert torch.arange(3).float().dtype == torch.float32
    assert torch.zeros(2).dtype == torch.float32
    assert torch.ones(1, dtype=DOUBLE).float().dtype == torch.float32


def test_writing_float64_into_float32_is_refused():
    x = torch.ones(3, dtype=DOUBLE)
    for write in (
        lambda buffer: buffer.copy_(x),
        lambda buffer: buffer.add_(x),
        lambda buffer: buffer.__setitem__(slice(None), x),
        lambda buffer: buffer.__iadd__(x),
    ):
        buffer = torch.zeros(3, dtype=torch.float32)
        with promote_float64(), pytest.raises(RuntimeError, match="in place"):
            write(buffer)


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # of the first jvp of a process
def test_gradients_flow_through_the_promotion():
    w = torch.ones(3, requires_grad=True)
    x = torch.full((2, 3), 2.0, dtype=DOUBLE, requires_grad=True)
    with promote_float64():
        y = F.linear(x, w[None]).sum()
    y.backward()
    assert torch.equal(w.grad, torch.full((3,), 4.0))
    assert x.grad.dtype == DOUBLE
    _, tangent = torch.func.jvp(
        lambda x: _promoted_square(x, w.detach()), (x.detach(),), (x.detach(),)
    )
    assert tangent.dtype == DOUBLE
    assert float(tangent) == 2 * float(_promoted_square(x.detach(), w.detach()))


def _promoted_square(x, w):
    with promote_float64():
        return F.linear(x, w[None]).square().sum()
