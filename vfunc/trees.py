"""Arithmetic on parameter dicts: name -> tensor, the only container of the core.

Names carry the structure, so order never matters: every function reads its second argument by
the names of the first. Sums are accumulated in float32 at least. Solvers call these functions
thousands of times an estimate: their arguments' types are checked in tests alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor

from vfunc.errors import UserError

Params: TypeAlias = dict[str, Float[Tensor, "..."]]
"""Parameters, gradients and directions by name."""

Scalar: TypeAlias = Float[Tensor, ""]
"""A real number, as a tensor without dimensions."""


def dot(a: Params, b: Params) -> Scalar:
    """Inner product <a, b> over all entries.

    Args:
        a: parameters, any shapes.
        b: parameters of the same names and shapes.

    Returns:
        The sum of products, in float32 or the inputs' own precision if that is higher.
    """
    total: Tensor | None = None
    for name, x in a.items():
        dtype = torch.promote_types(x.dtype, torch.float32)
        part = (x.to(dtype) * b[name].to(dtype)).sum()
        total = part if total is None else total + part
    return torch.zeros(()) if total is None else total


def norm(a: Params) -> Scalar:
    """Euclidean norm of all entries together, however small or large: squares may not be numbers.

    Where the sum of squares leaves its dtype's range, entries are divided by the largest first.
    """
    squared = dot(a, a)
    number = torch.finfo(squared.dtype)
    if number.tiny / number.eps < float(squared) < number.max:
        return squared.sqrt()
    largest = max((float(x.abs().max()) for x in a.values() if x.numel()), default=0.0)
    if largest == 0.0 or not math.isfinite(largest):
        return squared.sqrt()
    scaled = {name: x.to(squared.dtype) / largest for name, x in a.items()}
    return dot(scaled, scaled).sqrt() * largest


def cosine(a: Params, b: Params) -> Scalar:
    """<a, b> / (|a| |b|), however small or large the two are; NaN where one is zero."""
    one, other = norm(a), norm(b)
    unit = {name: x.to(one.dtype) / one for name, x in a.items()}
    return dot(unit, {name: x.to(other.dtype) / other for name, x in b.items()})


def scale(a: Params, factor: float | Tensor) -> Params:
    """factor * a."""
    return {name: x * factor for name, x in a.items()}


def axpy(factor: float | Tensor, x: Params, y: Params) -> Params:
    """y + factor * x."""
    return {name: y[name] + factor * x[name] for name in y}


def zeros_like(a: Params) -> Params:
    """Zeros of the same names and shapes."""
    return {name: torch.zeros_like(x) for name, x in a.items()}


def detach(a: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without their graphs (no copy)."""
    return {name: x.detach() for name, x in a.items()}


def leaves(a: Params) -> Params:
    """The same values as fresh autograd leaves (no copy)."""
    return {name: x.detach().requires_grad_() for name, x in a.items()}


def normal_like(a: Params, generator: torch.Generator) -> Params:
    """Standard normal entries, drawn on the CPU so that every device sees the same numbers.

    They are drawn in the order of the names, and so do not depend on the dict's.
    """
    drawn = {
        name: torch.randn(a[name].shape, generator=generator, dtype=torch.float64).to(a[name])
        for name in sorted(a)
    }
    return {name: drawn[name] for name in a}


def is_zero(a: Params) -> bool:
    """Whether every entry is exactly zero."""
    return not any(bool(x.any()) for x in a.values())


def is_finite(a: Params) -> bool:
    """Whether every entry is finite."""
    return all(bool(torch.isfinite(x).all()) for x in a.values())


def flatten(a: Params) -> Float[Tensor, " n"]:
    """All entries as one vector, in the dict's order."""
    return torch.cat([x.reshape(-1) for x in a.values()])


def unflatten(vector: Float[Tensor, " n"], like: Params) -> Params:
    """The inverse of `flatten`, with the names and shapes of `like`."""
    pieces = torch.split(vector, [x.numel() for x in like.values()])
    return {
        name: piece.reshape(x.shape) for (name, x), piece in zip(like.items(), pieces, strict=True)
    }


def require_same_structure(what: str, a: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    """Check that two dicts have the same names and shapes.

    Args:
        what: what `a` is, for the message.
        a: the dict to check.
        like: the dict it has to match.

    Raises:
        UserError: names or shapes differ; the first few differences are listed.
    """
    missing = [name for name in like if name not in a]
    extra = [name for name in a if name not in like]
    shapes = [n for n in like if n in a and a[n].shape != like[n].shape]
    if missing or extra or shapes:
        raise UserError(
            f"{what} does not match: missing {missing[:3]}, unexpected {extra[:3]}, "
            f"other shapes {[(n, tuple(a[n].shape), tuple(like[n].shape)) for n in shapes[:3]]}"
        )


def gradient(output: Scalar, inputs: Params, *, retain_graph: bool = False) -> Params:
    """Plain first-order gradient of `output` in `inputs`; zeros where it does not depend."""
    return filled(reached_gradient(output, inputs, retain_graph=retain_graph), inputs)


def gradient_if_reached(output: Scalar, inputs: Params) -> Params | None:
    """Plain first-order gradient of `output` in `inputs`; None where it depends on none of them."""
    reached = reached_gradient(output, inputs)
    return filled(reached, inputs) if reached else None


def reached_gradient(output: Scalar, inputs: Params, *, retain_graph: bool = False) -> Params:
    """Plain first-order gradient in those of `inputs` that `output` depends on, by name."""
    if not output.requires_grad or not inputs:
        return {}
    grads = torch.autograd.grad(
        output, list(inputs.values()), retain_graph=retain_graph, allow_unused=True
    )
    return {name: dense(g) for name, g in zip(inputs, grads, strict=True) if g is not None}


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


def dense(g: Tensor) -> Tensor:
    """A gradient with all of its entries: those of `nn.Embedding(sparse=True)` come without."""
    return g if g.layout is torch.strided else g.to_dense()


def filled(a: Params, like: Params) -> Params:
    """`a` with the names of `like`: zeros where it has no entry."""
    return {name: a[name] if name in a else torch.zeros_like(x) for name, x in like.items()}


def described(a: Mapping[str, Tensor], most: int = 4) -> str:
    """Names and shapes in a line, for messages and reprs: `{w (3, 4), b (3), ... 6 in all}`.

    Args:
        a: tensors by name.
        most: how many to tell.
    """
    told = [f"{name} ({', '.join(map(str, x.shape))})" for name, x in list(a.items())[:most]]
    more = [f"... {len(a)} in all"] if len(a) > most else []
    return "{" + ", ".join([*told, *more]) + "}"
