"""Conditions of a learner's forward pass: mixed precision, its round-off, activations kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from vfunc.errors import UserError

CHECKPOINTING_FLAGS = ("gradient_checkpointing", "grad_checkpointing")
"""Module attributes that switch activation checkpointing on, in transformers and in timm."""

_RECOMPUTES = (
    "the learner recomputes activations (torch.utils.checkpoint) or packs what is saved for its "
    "backward pass; an estimate would get gradients of other parameters: switch it off"
)

_INPUT_HOOKS = ("make_inputs_require_grad", "make_inputs_require_grads")
"""PEFT's and transformers' hooks for it, whose `requires_grad_` no transform allows."""


def autocast(
    device: torch.device, dtype: torch.dtype | None
) -> torch.autocast | contextlib.nullcontext:
    """Mixed precision, without the weight cache: a cast of one theta must not serve another.

    Args:
        device: device of the forward pass.
        dtype: dtype of matrix products; None keeps the parameters'.
    """
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype, cache_enabled=False)


def round_off(dtype: torch.dtype) -> float:
    """The distance from 1 to the next number of a dtype."""
    return torch.finfo(dtype).eps


def coarser(dtype: torch.dtype, other: torch.dtype | None) -> torch.dtype:
    """The one of two dtypes with the larger round-off; None is no dtype."""
    return dtype if other is None else max(dtype, other, key=round_off)


def coarsest_round_off(theta: Mapping[str, Tensor], compute_dtype: torch.dtype | None) -> float:
    """The largest round-off of the dtypes that a loss goes through.

    Args:
        theta: the learner's parameters.
        compute_dtype: what the loss is computed in, where that is coarser than theta's own.
    """
    return max(round_off(coarser(x.dtype, compute_dtype)) for x in theta.values())


@contextlib.contextmanager
def without_recomputation(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Have modules keep their activations: their flags are off, other checkpoints are refused.

    Args:
        modules: a learner and all that are in it.
    """
    with without_checkpointing(modules), refusing_recomputation():
        yield


@contextlib.contextmanager
def without_checkpointing(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Switch transformers' and timm's gradient checkpointing off, and on again afterwards.

    Under `functional_call` a checkpoint recomputes after the parameters have been swapped back:
    the gradient is that of the module's own parameters, 18 to 100 % off at another theta, without
    a word. Only memory is lost by doing without: a call holds the activations of S's layers.

    Args:
        modules: a learner and all that are in it.
    """
    flags = [(m, flag) for m in modules for flag in CHECKPOINTING_FLAGS if _is_on(m, flag)]
    hooks = [
        (child._forward_hooks, key, hook)
        for child in modules
        for key, hook in child._forward_hooks.items()
        if getattr(hook, "__name__", "") in _INPUT_HOOKS
    ]
    for child, flag in flags:
        setattr(child, flag, False)
    for registered, key, _ in hooks:
        registered[key] = lambda module, args, output: None
    try:
        yield
    finally:
        for child, flag in flags:
            setattr(child, flag, True)
        for registered, key, hook in hooks:
            registered[key] = hook


def _is_on(module: nn.Module, flag: str) -> bool:
    """Whether a module has a switch that is on; a module is slow to say that it has none."""
    known = flag in vars(module) or hasattr(type(module), flag)
    return known and getattr(module, flag) is True


@contextlib.contextmanager
def refusing_recomputation() -> Iterator[None]:
    """Refuse a checkpoint that no flag switches off; without a graph nothing is recomputed."""
    with contextlib.ExitStack() as stack:
        if torch.is_grad_enabled():
            # the caller's own hooks, set around the call, stand: then there is no telling
            with contextlib.suppress(RuntimeError):
                hooks_off = torch.autograd.graph.disable_saved_tensors_hooks(_RECOMPUTES)
                stack.enter_context(hooks_off)
        try:
            yield
        except RuntimeError as error:
            if _RECOMPUTES in str(error):
                raise UserError(_RECOMPUTES) from error
            raise
