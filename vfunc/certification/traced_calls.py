"""Records the torch operations that a function calls, and the modules they are in."""

from __future__ import annotations

import contextlib
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils.module_tracker import ModuleTracker


@dataclass(frozen=True)
class Operation:
    """One call of a torch function.

    Attributes:
        func: the function.
        args: positional arguments, tensors copied and detached.
        kwargs: keyword arguments, likewise.
        active: places, in `leaves_of` order, of tensors that depend on the learner or the task.
        module: path of the module around the call; "" outside of any.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    active: tuple[int, ...]
    module: str

    @property
    def name(self) -> str:
        """Module and function, such as `blocks.0.norm: torch.nn.functional.layer_norm`."""
        return located(self.module, self.func)


def located(module: str, func: Callable[..., Any]) -> str:
    """A function's name with the module that it is in before it."""
    # torch fails on what is none of its own functions
    resolved = None if isinstance(func, CustomCall) else resolve_name(func)
    name = resolved or getattr(func, "__name__", repr(func))
    return f"{module}: {name}" if module else name


def leaves_of(x: Any) -> Iterator[Tensor]:
    """The tensors in arguments or results, in order."""
    return (leaf for leaf in numbers_in(x) if isinstance(leaf, Tensor))


def numbers_in(x: Any) -> Iterator[Tensor | int | float]:
    """The tensors and plain numbers in arguments or results, in order."""
    if isinstance(x, Tensor | int | float):
        yield x
    elif isinstance(x, list | tuple):
        for item in x:
            yield from numbers_in(item)
    elif isinstance(x, Mapping):
        for item in x.values():
            yield from numbers_in(item)


def with_leaves(x: Any, tensors: Iterator[Tensor]) -> Any:
    """The same arguments with these tensors in place of their own."""
    if isinstance(x, Tensor):
        return next(tensors)
    if type(x) in (list, tuple):
        return type(x)([with_leaves(item, tensors) for item in x])
    if type(x) is dict:
        return {name: with_leaves(item, tensors) for name, item in x.items()}
    return x


class Modules(ModuleTracker):
    """Paths of the running modules, in forward passes alone.

    torch's own follows backward passes too, by hooks that tensors made under `inference_mode` lack.
    """

    def _fw_pre_hook(self, mod: nn.Module, input: Any) -> None:
        self.parents.add(self._get_mod_name(mod))

    def _fw_post_hook(self, mod: nn.Module, input: Any, output: Any) -> None:
        self.parents.discard(self._get_mod_name(mod))


class Watch(TorchFunctionMode):
    """Calls `before` ahead of each torch function, and what that returns with its result."""

    def __init__(self, before: Callable[..., Callable[[Any], None] | None]) -> None:
        super().__init__()
        self._before = before

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        after = self._before(func, args, kwargs)
        result = func(*args, **kwargs)
        if after is not None:
            after(result)
        return result


@contextlib.contextmanager
def watched(before: Callable[..., Callable[[Any], None] | None]) -> Iterator[Modules]:
    """Have `before` called ahead of each torch function within, gradients switched on (`Watch`).

    Returns:
        The paths of the running modules.
    """
    with uncompiled(), Modules() as tracker, torch.enable_grad(), Watch(before):
        yield tracker


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Have modules within run as they are written, those that `torch.compile` made included.

    Its tracing ends in an assertion where module hooks or torch function modes watch.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled; its import takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        # a module of torch.compile's is noted as running twice, which is once
        warnings.filterwarnings("ignore", message=".*when there are global hooks on modules")
        yield


def distinct_operations(function: Callable[[], Tensor]) -> list[Operation]:
    """The differentiable calls of a function, the first of each kind and shape, in order."""
    found: dict[tuple, Operation] = {}

    def before(func: Any, args: Any, kwargs: Any) -> Callable[[Any], None] | None:
        tensors = list(leaves_of((args, kwargs)))
        active = tuple(i for i, x in enumerate(tensors) if x.requires_grad)
        if not active:
            return None
        shapes = tuple((tuple(x.shape), x.dtype, x.requires_grad) for x in tensors)
        key = (func, shapes, _plain((args, kwargs)))
        if key in found:
            return None
        copies = iter([x.detach().clone() for x in tensors])
        args, kwargs = with_leaves((args, kwargs), copies)
        operation = Operation(func, args, kwargs, active, innermost(tracker))

        def after(result: Any) -> None:
            if any(x.requires_grad for x in leaves_of(result)):
                found.setdefault(key, operation)

        return after

    with watched(before) as tracker, functions_too(before):
        function()
    return list(found.values())


@contextlib.contextmanager
def functions_too(before: Callable[..., Callable[[Any], None] | None]) -> Iterator[None]:
    """Custom `torch.autograd.Function`s, which are no torch functions, go through `before` too."""
    kind, real = torch.autograd.Function, torch.autograd.Function.__dict__["apply"]

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        call = real.__get__(None, cls)

        def function(*args: Any, **kwargs: Any) -> Any:
            return call(*args, **kwargs)

        function.__name__ = function.__qualname__ = cls.__name__
        after = before(CustomCall(function, cls), args, kwargs)
        result = call(*args, **kwargs)
        if after is not None:
            after(result)
        return result

    kind.apply = classmethod(apply)
    try:
        yield
    finally:
        kind.apply = real


@dataclass(frozen=True)
class CustomCall:
    """A custom function's call, equal to any other call of the same function."""

    call: Callable[..., Any] = field(compare=False)
    function: type

    @property
    def __name__(self) -> str:
        return self.function.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The call itself."""
        return self.call(*args, **kwargs)


@dataclass
class _Trace:
    """Calls in order, each with fingerprints of its arguments and its result."""

    calls: list[tuple[str, tuple, tuple]] = field(default_factory=list)


def first_to_differ(function: Callable[[], Any]) -> str | None:
    """The first call that gives another result when the function is evaluated again.

    Returns:
        Its name and module, or None if every call repeats itself on what it is given.
    """
    one, two = _trace(function), _trace(function)
    for (name, taken, returned), (again, taken_again, returned_again) in zip(one.calls, two.calls):  # noqa: B905 (a random branch makes them unequal)
        if name != again:
            return None
        if _near(taken, taken_again) and not _near(returned, returned_again):
            return name
    return None


def _trace(function: Callable[[], Any]) -> _Trace:
    trace = _Trace()

    def before(func: Any, args: Any, kwargs: Any) -> Callable[[Any], None] | None:
        if getattr(func, "__name__", "") == "__get__":  # how often shapes are read may differ
            return None
        taken = _fingerprint((args, kwargs))
        name = located(innermost(tracker), func)
        return lambda result: trace.calls.append((name, taken, _fingerprint(result)))

    with watched(before) as tracker:
        function()
    return trace


def innermost(tracker: Modules) -> str:
    """Path of the innermost running module, without its root's class."""
    path = max(tracker.parents - {"Global"}, key=len, default="")
    return path.partition(".")[2]


def _fingerprint(x: Any) -> tuple[float, ...]:
    """One number for each tensor, sensitive to all entries and their order; numbers themselves.

    A number may be a count: what adds it gives something else because of what it was given.
    """
    return tuple(_projection(t) if isinstance(t, Tensor) else float(t) for t in numbers_in(x))


def _projection(x: Tensor) -> float:
    flat = x.detach().reshape(-1).to(torch.float64)
    flat = flat.clamp(-1e100, 1e100)  # masks hold infinities
    return float(flat @ torch.arange(1, len(flat) + 1, device=x.device).double().sqrt().cos())


def _near(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return len(a) == len(b) and all(
        x == y or math.isclose(x, y, rel_tol=1e-9) or (math.isnan(x) and math.isnan(y))
        for x, y in zip(a, b, strict=True)
    )


def _plain(x: Any) -> str:
    """The arguments as text, tensors left out."""
    if isinstance(x, Tensor):
        return "tensor"
    if isinstance(x, list | tuple):
        return "(" + ", ".join(map(_plain, x)) + ")"
    if isinstance(x, Mapping):
        return ", ".join(f"{k}={_plain(v)}" for k, v in x.items())
    return repr(x)[:80]
