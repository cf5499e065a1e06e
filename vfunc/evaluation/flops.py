"""Counts the floating-point operations of matrix products, convolutions and attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import (
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)


class Flops(TorchDispatchMode):
    """Counts operations as they are dispatched, those of a CPU's fused attention too.

    torch's own counter leaves these out, and follows modules by hooks that neither a double
    backward nor a checked purity bears.

    Attributes:
        total: of all so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and add what it takes."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **kwargs, out_val=result)
        elif packet is _FUSED:
            self.total += sdpa_flop_count(*(x.shape for x in args[:3]))
        elif packet is _FUSED_BACKWARD:
            self.total += sdpa_backward_flop_count(*(x.shape for x in args[:4]))
        return result


_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FUSED_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def flops_of(function: Callable[[], object]) -> int:
    """FLOPs that a call makes; a product of matrices counts two a multiplication."""
    with Flops() as counter:
        function()
    return counter.total
