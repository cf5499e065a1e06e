"""Looks at derivatives of custom functions that engines take: some are lost without an error.

The backward pass of a `torch.autograd.Function` gives a gradient; what torch makes of it when it is
differentiated once more depends on how it was written. Attributes of ctx, saved tensors that are
neither input nor output, `torch.no_grad()` and numpy are constants there, and nothing says so
(https://docs.pytorch.org/tutorials/intermediate/custom_function_double_backward_tutorial.html).
Forward mode goes through an operator of `torch.library` as through a constant.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vfunc import trees
from vfunc.forward_pass import round_off
from vfunc.problem.pieces_of_code import first_time, remember
from vfunc.pullback.engine import ProductRequest
from vfunc.pullback.graph import custom_classes, nodes, of_library, plain_name
from vfunc.pullback.held_constant import COARSEST, differs
from vfunc.pullback.missing import MissingDerivativeError
from vfunc.trees import Params, tangent_along

SECOND = (
    "its backward pass gives the gradient and, differentiated once more, not the gradient's slope: "
    "what it keeps as attributes, saves though it is neither input nor output, or computes under "
    "torch.no_grad() or by numpy is constant there"
)

UNSEEN = (
    "torch.compile makes another class of a custom function at each call, whose backward pass "
    "cannot be looked at, and may be constant when it is differentiated once more"
)

TANGENT = "its tangent by forward mode is not what its backward pass says"


def require_custom_derivatives(request: ProductRequest, engine: str, code: Hashable) -> None:
    """Check the derivatives of custom functions in the loss that an engine takes.

    Once for each piece of code, function and shape of its inputs, by two forwards of the loss and
    a dozen calls of each function alone: tangents against its gradient, and what differentiates
    its backward pass against differences of that.

    Args:
        request: what an engine is asked for.
        engine: its name; `finite_difference` takes gradients alone.
        code: what is remembered of the loss (`code_of`).

    Raises:
        MissingDerivativeError: a function's is lost; it is named.
    """
    key = (code, engine, "derivatives of custom functions")
    if engine not in ("linear", "forward", "reverse") or not first_time(key):
        return
    calls, unseen = _calls_of(request)
    if unseen and engine == "reverse":
        raise MissingDerivativeError(engine, " or ".join(unseen), UNSEEN)
    second = _SECOND.get(engine)
    for lost, said in (
        ([c for c in calls if engine != "reverse" and _loses_tangent(c)], TANGENT),
        ([c for c in calls if second is not None and _loses_slope(c, second)], SECOND),
    ):
        if lost:
            names = dict.fromkeys(plain_name(c.function.__name__) for c in lost)
            raise MissingDerivativeError(engine, " or ".join(names), said)
    remember(key)


def _calls_of(request: ProductRequest) -> tuple[list[_Call], list[str]]:
    """Calls of the loss's custom functions; names of those that torch makes anew at each call."""
    theta, made = trees.leaves(request.theta), trees.leaves(request.made)
    calls = _Calls({id(x) for x in theta.values()})
    with torch.enable_grad():
        functions = custom_classes([request.loss(theta, made)])
        with contextlib.ExitStack() as stack:
            for function in functions:
                stack.enter_context(calls.of(function))
            if functions:
                request.loss(theta, made)
    # a class that the user's own code makes at each call is as it is written there
    made_by_torch = (one for one in functions if one.__module__.startswith("torch."))
    unseen = (plain_name(one.__name__) for one in made_by_torch if one not in calls.seen)
    return list(calls.kept.values()), list(dict.fromkeys(unseen))


@dataclass(frozen=True)
class _Call:
    """A call of a custom function.

    Attributes:
        function: its class.
        args: what it was given; tensors are copies, and those that theta or the task reach leaves.
        moved: positions of those that theta reaches: elsewhere the loss needs no second derivative.
    """

    function: Any
    args: tuple[Any, ...]
    moved: tuple[int, ...]


@dataclass
class _Calls:
    """Calls of custom functions that theta reaches: one for each function and input shapes.

    Attributes:
        theta: identities of theta's leaves.
        seen: the functions that have been called at all.
        kept: the calls.
    """

    theta: set[int]
    seen: set[object] = field(default_factory=set)
    kept: dict[object, _Call] = field(default_factory=dict)

    @contextlib.contextmanager
    def of(self, function: Any) -> Iterator[None]:
        """Keep a function's calls, by its `forward`: its `apply` may have been bound before."""
        real, own = function.forward, vars(function).get("forward")
        bare = function.setup_context is not torch.autograd.Function.setup_context

        def forward(*given: Any) -> Any:
            self.seen.add(function)
            args = given if bare else given[1:]
            shapes = tuple(tuple(x.shape) if isinstance(x, Tensor) else None for x in args)
            if (function, shapes) not in self.kept and (moved := self._moved(args)):
                copied = tuple(x.detach().clone() if isinstance(x, Tensor) else x for x in args)
                for x, live in zip(copied, args, strict=True):
                    if _active(live):
                        x.requires_grad_()
                self.kept[function, shapes] = _Call(function, copied, moved)
            return real(*given)

        function.forward = staticmethod(forward)
        try:
            yield
        finally:
            if own is None:
                del function.forward
            else:
                function.forward = own

    def _moved(self, args: tuple[Any, ...]) -> tuple[int, ...]:
        return tuple(i for i, x in enumerate(args) if _active(x) and self._reached(x))

    def _reached(self, x: Tensor) -> bool:
        leaves = (getattr(node, "variable", None) for node in nodes([x]))
        return id(x) in self.theta or any(id(leaf) in self.theta for leaf in leaves)


def _active(x: object) -> bool:
    return isinstance(x, Tensor) and x.requires_grad and x.is_floating_point()


_Second = Callable[[Callable[[Params], Tensor], Params, Params], Params]


@dataclass(frozen=True)
class _Projected:
    """<outputs, v> of a custom function, as a function of the inputs that have gradients.

    Attributes:
        call: which.
        point: those inputs, by position.
        cotangents: v, by position among the outputs.
    """

    call: _Call
    point: Params
    cotangents: Params

    @staticmethod
    def of(call: _Call) -> _Projected:
        with torch.enable_grad():
            found = _several(call.function.apply(*call.args))
        outputs = {str(i): x.detach() for i, x in enumerate(found) if _active(x)}
        drawn = trees.normal_like(outputs, torch.Generator().manual_seed(0))
        point = {str(i): x.detach() for i, x in enumerate(call.args) if _active(x)}
        return _Projected(call, point, drawn)

    def __call__(self, at: Params) -> Tensor:
        given = [at.get(str(i), x) for i, x in enumerate(self.call.args)]
        found = _several(self.call.function.apply(*given))
        return trees.dot({name: found[int(name)] for name in self.cotangents}, self.cotangents)

    def gradient(self, at: Params) -> Params:
        leaves = trees.leaves(at)
        with torch.enable_grad():
            return trees.gradient(self(leaves), leaves)

    def moved(self, direction: Params) -> Params:
        """A direction in what theta reaches alone."""
        moved = self.call.moved
        return {n: x if int(n) in moved else torch.zeros_like(x) for n, x in direction.items()}

    @property
    def dtype(self) -> torch.dtype:
        """The coarsest dtype of the inputs."""
        return max((x.dtype for x in self.point.values()), key=round_off)

    @property
    def eps(self) -> float:
        """Its round-off."""
        return round_off(self.dtype)


def _several(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


def _loses_tangent(call: _Call) -> bool:
    """Whether the tangent along the gradient is not the square of its length."""
    if of_library(call.function):  # which has no way to register one
        return True
    try:
        value = _Projected.of(call)
        along = value.moved(value.gradient(value.point))
        _, found = tangent_along(value, value.point, along)
    except Exception:  # an engine tells what is missing, where it is asked for it
        return False
    wanted = float(trees.dot(along, along))
    return not same(float(found), wanted, wanted, value.eps)


def same(one: float, other: float, size: float, eps: float) -> bool:
    """Whether a tangent is what a backward pass says, but for rounding.

    Args:
        one: the one.
        other: the other.
        size: of what either is a sum of.
        eps: the round-off of what they were computed in.
    """
    return abs(one - other) <= max(1e-3, 16 * eps) * size


def _loses_slope(call: _Call, second: _Second) -> bool:
    """Whether d<g, u>, g the gradient, is not what differences of it say."""
    try:
        value = _Projected.of(call)
        if value.eps > COARSEST:
            return False
        drawn = trees.normal_like(value.point, torch.Generator().manual_seed(1))
        along, g = value.moved(drawn), value.gradient(value.point)
        found = second(value, value.point, along)
    except Exception:  # as above
        return False

    def inner(step: float, direction: Params) -> Tensor:
        return trees.dot(value.gradient(trees.axpy(step, direction, value.point)), along)

    size = float(trees.norm(g) * trees.norm(along))
    return differs(inner, value.point, found, trees.dot(g, along), value.eps ** (1 / 3), size)


def _by_reverse(value: Callable[[Params], Tensor], point: Params, along: Params) -> Params:
    leaves = trees.leaves(point)
    with torch.enable_grad():
        grads = torch.autograd.grad(
            value(leaves), list(leaves.values()), create_graph=True, materialize_grads=True
        )
        return trees.gradient(trees.dot(dict(zip(leaves, grads, strict=True)), along), leaves)


def _by_forward(value: Callable[[Params], Tensor], point: Params, along: Params) -> Params:
    return tangent_along(torch.func.grad(value), point, along)[1]


_SECOND = {"reverse": _by_reverse, "forward": _by_forward}
