"""Computes weight norm by arithmetic whose second derivative is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g v / |v|, norms over all dimensions but one."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


class _Plain(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        fused = torch._weight_norm  # pyright: ignore[reportPrivateImportUsage]: it has no public name
        called = _weight_norm if func is fused else func
        return called(*args, **(kwargs or {}))


@contextmanager
def plain_weight_norm() -> Iterator[None]:
    """Weight norm without torch's fused kernel.

    The kernel has no forward mode, and its double backward is .1 to .2 % off.
    """
    with _Plain():
        yield
