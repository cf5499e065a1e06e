"""Forward mode, without the deprecation warning that torch's own set-up of it prints."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch

from vfunc.trees import Params


def tangent_along(function: Callable[[Params], Any], theta: Params, w: Params) -> tuple[Any, Any]:
    """(function(theta), its directional derivative along w), by one forward-mode pass.

    w is read by theta's names, in theta's order: torch wants the two dicts in the same order.

    torch 2.13 and later warn of `torch.jit.script`, which they use themselves the first time that
    forward mode is asked for.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated", category=Warning)
        along = {n: w[n].detach() for n in theta}
        return cast("tuple[Any, Any]", torch.func.jvp(function, (theta,), (along,)))
