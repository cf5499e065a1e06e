"""Keeps a frozen teacher that follows its student by an exponential moving average."""

from __future__ import annotations

import copy
import math
from typing import Any, TypeVar

import torch
from torch import nn

_M = TypeVar("_M", bound=nn.Module)


class TaughtLearner(nn.Module):
    """A student and, in submodules named `teacher_...`, frozen copies of its modules.

    Its methods are called by name, `module(method, *args)`, so that `functional_call` reaches all
    of them. A teacher stays in eval mode whatever mode the student is in.
    """

    def forward(self, method: str, *args: Any) -> Any:
        """Call a method by its name."""
        return getattr(self, method)(*args)

    def train(self: _M, mode: bool = True) -> _M:
        """Train mode, but for the teacher."""
        super().train(mode)
        for name, child in self.named_children():
            if name.startswith("teacher_"):
                child.eval()
        return self


def frozen_copy(module: _M) -> _M:
    """A deep copy in eval mode, whose parameters require no gradient."""
    return copy.deepcopy(module).requires_grad_(False).eval()


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher in place: momentum * teacher + (1 - momentum) * student.

    Buffers are copied. The teacher should hold float32 (or float64): in bfloat16 a step of one
    part in 250 is rounded away.

    Args:
        teacher: a copy of the student's structure.
        student: the student, unchanged.
        momentum: in [0, 1]; 1 leaves the teacher's parameters as they are.
    """
    for own, its in zip(teacher.parameters(), student.parameters(), strict=True):
        own.lerp_(its, 1 - momentum)
    for own, its in zip(teacher.buffers(), student.buffers(), strict=True):
        own.copy_(its)


def cosine_momentum(start: float, fraction: float) -> float:
    """From `start` to 1 along half a cosine, as DINO's (Caron et al. 2021).

    Args:
        start: momentum at the start.
        fraction: share of the budget spent; beyond 1 it counts as 1.

    Returns:
        The momentum.
    """
    return 1 - (1 - start) * (1 + math.cos(math.pi * min(fraction, 1.0))) / 2


def linear_momentum(start: float, fraction: float) -> float:
    """From `start` to 1 along a line, as I-JEPA's (Assran et al. 2023).

    Args:
        start: momentum at the start.
        fraction: share of the budget spent; beyond 1 it counts as 1.

    Returns:
        The momentum.
    """
    return start + (1 - start) * min(fraction, 1.0)
