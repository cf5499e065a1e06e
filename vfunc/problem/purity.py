"""Watches that a problem's own functions change nothing that is passed to them or that they run.

A function's first call is watched closely: what it was given is copied, and the modules that it
reaches are looked at. Later calls of the same code compare version counters alone.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vfunc.errors import UserError
from vfunc.problem.arguments import blaming
from vfunc.problem.pieces_of_code import (
    code_of,
    content_of,
    first_time,
    names_looked_up,
    remember,
)

MOST_HELD = 1000
"""Entries of a collection in which modules, or tensors of a batch, are sought, at most."""

NESTED = 3
"""How deep collections in a batch are looked through for tensors."""

_COLLECTIONS = (Mapping, list, tuple)


def version_of(x: Tensor) -> int:
    """How often a tensor has been written to; inference tensors do not count."""
    return 0 if x.is_inference() else x._version


@dataclass(frozen=True)
class _Seen:
    """A module's parameter or buffer as it was before a call."""

    name: str
    tensor: Tensor
    version: int
    copy: Tensor | None

    @property
    def written(self) -> bool:
        """Whether it was written to; batch norm's kernels do not count themselves as writing."""
        if self.copy is None or version_of(self.tensor) != self.version:
            return version_of(self.tensor) != self.version
        return not _equal(self.tensor, self.copy)


@contextlib.contextmanager
def untouched(
    name: str, function: Callable[..., Any], **given: Mapping[Any, Tensor]
) -> Iterator[None]:
    """Refuse a function that writes to its arguments, or to a module's parameters or buffers.

    What it has written to in its first call is put back.

    Args:
        name: of the function, for messages.
        function: what is called inside.
        **given: the tensors that it is given, by name.

    Raises:
        UserError: it has written to one of them.
    """
    versions = {(kind, key): version_of(x) for kind, xs in given.items() for key, x in xs.items()}
    code = (name, code_of(function))
    closely = first_time(code)
    if not closely:
        yield
    else:
        copies = {(k, n): x.detach().clone() for k, xs in given.items() for n, x in xs.items()}
        seen = [held for module in modules_of(function) for held in _held_by(module)]
        yield
        _restore([s for s in seen if s.written])
        changed = [at for at, copy in copies.items() if not _equal(given[at[0]][at[1]], copy)]
        for kind, key in changed:
            with torch.no_grad():
                given[kind][key].detach().copy_(copies[kind, key])
        live = next((s.name for s in seen if s.written), None)
        if live is not None:
            raise UserError(_told(name, f"the live {live}"))
        for kind, key in changed:  # by .data, which counts no version
            raise UserError(_told(name, _entry(kind, key)))
    for (kind, key), version in versions.items():
        if version_of(given[kind][key]) != version:
            raise UserError(_told(name, _entry(kind, key)))
    if closely:
        remember(code)


@contextlib.contextmanager
def using(
    function: Callable[..., Any], name: str, batch: Any = None, **given: Mapping[str, Tensor]
) -> Iterator[None]:
    """Call one of a problem's own functions: its mistakes are told in one line.

    Args:
        function: what is called inside.
        name: of the function, for messages.
        batch: the batch that it is given, in whatever form.
        **given: the tensors that it is given, by name.

    Raises:
        UserError: it writes to what it is given or to a live module (`untouched`), or cannot use
            what it is given (`blaming`).
    """
    with blaming(name, **given), untouched(name, function, batch=_tensors_of(batch), **given):
        yield


def _tensors_of(batch: Any) -> dict[Any, Tensor]:
    """The tensors of a batch by their path of keys, places and attributes; see `_entry`.

    What is nearest is looked at first, and `MOST_HELD` things at most: token ids in lists are many.
    """
    if isinstance(batch, Tensor):
        return {(): batch}
    found: dict[Any, Tensor] = {}
    ahead, left = deque[tuple[tuple[Any, ...], Any]]([((), batch)]), MOST_HELD
    while ahead and left:
        path, x = ahead.popleft()
        for at, held in itertools.islice(_entries_of(x), left):
            left -= 1
            if isinstance(held, Tensor):
                found[*path, at] = held
            elif len(path) < NESTED and isinstance(held, _COLLECTIONS):
                ahead.append(((*path, at), held))
    return found


def _entries_of(batch: Any) -> Iterable[tuple[Any, Any]]:
    """What a collection or an object holds, by key, place or attribute."""
    if isinstance(batch, Mapping):
        return batch.items()
    if isinstance(batch, list | tuple):
        return enumerate(batch)
    return vars(batch).items() if hasattr(batch, "__dict__") else ()


def _entry(kind: str, key: object) -> str:
    path = key if isinstance(key, tuple) else (key,)
    return kind + "".join(f"[{at!r}]" for at in path)


def _equal(x: Tensor, copy: Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN included; those without storage do.

    Sparse and nested ones have no comparison: their version counters alone tell.
    """
    if x.layout is not torch.strided or x.is_nested:
        return True
    if x.is_meta or not x.is_floating_point():
        return x.is_meta or torch.equal(x, copy)
    return torch.allclose(x, copy, rtol=0, atol=0, equal_nan=True)


def _told(name: str, what: str) -> str:
    return (
        f"{name} writes to {what}, and an estimate changes nothing: look for "
        "nn.Embedding(max_norm=...), for batch norm in train mode (vfunc.functional gives its "
        "buffers as copies), and for operations that end in _"
    )


def modules_of(function: object, depth: int = 4) -> list[nn.Module]:
    """The modules that a function reaches: by what it closes over, by globals, by its owner.

    Args:
        function: anything that is called.
        depth: how far functions, objects and collections are followed.
    """
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()

    def look(x: object, depth: int) -> None:
        if depth < 0 or id(x) in seen or type(x) in (int, float, str):
            return
        seen.add(id(x))
        try:
            if isinstance(x, Tensor | type | types.ModuleType):
                return
            if isinstance(x, nn.Module):
                found[id(x)] = x
                return
            inside = _held_in(x)
        except Exception:  # an object of the user's is free to raise: it holds no module
            return
        for held in inside:
            look(held, depth - 1)

    look(function, depth)
    return list(found.values())


def _held_in(x: object) -> list[object]:
    if isinstance(x, types.FunctionType):
        cells = [content_of(cell) for cell in x.__closure__ or ()]
        named = [x.__globals__[n] for n in names_looked_up(x.__code__) if n in x.__globals__]
        return [*cells, *(x.__defaults__ or ()), *named]
    if isinstance(x, types.MethodType):
        return [x.__func__, x.__self__]
    if isinstance(x, functools.partial):
        return [x.func, *x.args, *x.keywords.values()]
    if isinstance(x, Mapping):
        return list(itertools.islice(x.values(), MOST_HELD))
    if isinstance(x, list | tuple):
        return list(itertools.islice(x, MOST_HELD))
    return list((getattr(x, "__dict__", None) or {}).values())


def _held_by(module: nn.Module) -> Iterator[_Seen]:
    """Parameters and buffers of a module, with copies of what a forward may write to."""
    for part in module.modules():
        kind = type(part).__name__
        for name, x in part._parameters.items():
            if x is not None and not nn.parameter.is_lazy(x):
                copy = x.detach().clone() if _rescales(part) else None
                yield _Seen(f"parameter {name!r} of {kind}", x, version_of(x), copy)
        for name, x in part._buffers.items():
            if x is not None and not nn.parameter.is_lazy(x):
                yield _Seen(f"buffer {name!r} of {kind}", x, version_of(x), x.detach().clone())


def _rescales(module: nn.Module) -> bool:
    """Whether a module is known to write to its own parameters: only these are worth a copy."""
    return getattr(module, "max_norm", None) is not None


def _restore(written: list[_Seen]) -> None:
    with torch.no_grad():
        for s in written:
            if s.copy is not None:
                s.tensor.detach().copy_(s.copy)
