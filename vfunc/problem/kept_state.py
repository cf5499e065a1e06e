"""Numbers that a function keeps between its calls: counters, caches, random sources, tensors.

A module's attributes are among them, and what any Python function closes over, its globals, its
defaults, its own attributes and those of the object that it is a method of.
"""

from __future__ import annotations

import functools
import itertools
import operator
import random
import types
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vfunc.problem.purity import names_looked_up, version_of

MANY = 32
"""Entries of a collection that are looked at, at most; its length always is."""

DEPTH = 5
"""How far functions, objects and collections are followed."""

LIBRARIES = ("torch", "numpy", "transformers", "timm", "vfunc")
"""Their functions' globals are not followed: what they count is their own."""

MOST = 10_000
"""How many objects are looked at, at most."""

CHECKERS = ("beartype", "jaxtyping")
"""What their decorators remember is not looked at; the functions that they decorate are."""

OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Attributes that torch keeps of any module: parameters, buffers, modules, hooks, switches."""

Kept = dict[tuple[str, int], Any]
"""By name and, where several have one name, by their order."""


def kept_by(function: object) -> Kept:
    """What a function keeps between its calls; copies, so that two can be compared.

    Parameters are left out.

    Args:
        function: anything that is called.
    """
    found: Kept = {}
    times: Counter[str] = Counter()
    for name, x in _inside(function, _named(function), DEPTH):
        found[name, times[name]] = x
        times[name] += 1
    return found


def first_changed(before: Kept, now: Kept) -> str:
    """The name of the first that is another by now, or new; "" if none is."""
    for at in before | now:
        if at not in before or at not in now or not _equal(now[at], before[at]):
            return at[0]
    return ""


def _inside(x: object, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    """What x keeps, x itself if it is a number; what is nearest first, each object once.

    Args:
        x: anything.
        name: how it is reached, for messages.
        depth: how far to go on.
    """
    ahead, seen = deque([(x, name, depth)]), dict[int, object]()
    while ahead and len(seen) < MOST:
        x, name, depth = ahead.popleft()
        if isinstance(x, bool | int | float | complex | str | bytes | None):
            yield name, x
        elif id(x) not in seen and not isinstance(x, types.ModuleType):
            seen[id(x)] = x  # held, so that no other object gets its identity
            own = _own_state(x)
            if own is not None:
                yield name, own
            elif isinstance(x, nn.Module):
                yield from _attributes(x)
            elif depth > 0:
                ahead.extend((held, inner, depth - 1) for inner, held in _held_in(x, name))


def _named(x: object) -> str:
    return getattr(x, "__name__", type(x).__name__)


def _own_state(x: object) -> Any:
    """What can be compared of an object that is one number, or a source of them; else None."""
    if isinstance(x, Tensor):
        return None if isinstance(x, nn.Parameter) or x.is_meta else _numbers_of(x)
    if isinstance(x, np.ndarray):
        return None if x.dtype == object else x.copy()
    if isinstance(x, torch.Generator):
        return x.get_state()
    if isinstance(x, random.Random):
        return x.getstate()
    if isinstance(x, np.random.Generator):
        return repr(x.bit_generator.state)
    if isinstance(x, itertools.count):
        return repr(x)
    if isinstance(x, types.GeneratorType) or not isinstance(x, Iterator) or hasattr(x, "__dict__"):
        return None
    left = operator.length_hint(x, -1)
    return left if left >= 0 else _Unseen()


class _Unseen:
    """An iterator whose place cannot be seen: it counts as moved on, equal to none."""


def _numbers_of(x: Tensor) -> tuple[int, torch.Size, str]:
    """How often a tensor has been written to, its shape, and what its numbers add up to.

    A copy of each would hold what a learner of any size closes over twice.
    """
    plain = x.detach()
    try:
        plain = plain if plain.layout is torch.strided else plain.to_dense()
        if plain.is_floating_point() or plain.is_complex():
            wide = torch.complex128 if plain.is_complex() else torch.float64
            total = torch.linalg.vector_norm(plain, 1, dtype=wide)
        else:
            total = plain.sum()
        said = repr(total.item())
    except RuntimeError:  # a kind of number that torch cannot add up
        said = ""
    return version_of(x), x.shape, said


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Numbers and tensors that a module and those in it hold, but for parameters, by name."""
    for path, part in module.named_modules():
        where = f"{type(part).__name__}{f' {path!r}' if path else ''}"
        kept = {k: v for k, v in vars(part).items() if k not in OF_EVERY_MODULE} | part._buffers
        for name, value in kept.items():
            if isinstance(value, Tensor | int | float | list | tuple | dict | set | deque):
                for inner, x in _inside(value, repr(name), 2):
                    yield f"{inner} of {where}", x


def _held_in(x: object, name: str) -> Iterator[tuple[str, object]]:
    """What an object leads to, with names for messages."""
    if isinstance(x, types.FunctionType):
        owner, home = x.__name__, str(x.__globals__.get("__name__")).partition(".")[0]
        if home in CHECKERS:
            yield from (held for held in vars(x).items() if held[0] == "__wrapped__")
            return
        for cell_name, cell in zip(x.__code__.co_freevars, x.__closure__ or (), strict=True):
            try:
                yield f"{cell_name!r} of {owner}", cell.cell_contents
            except ValueError:  # a name that is not bound yet
                continue
        for default in (*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()):
            yield f"a default of {owner}", default
        for key, value in vars(x).items():
            yield f"{key!r} of {owner}", value
        if home not in LIBRARIES:
            for key in names_looked_up(x.__code__):
                if key in x.__globals__:
                    yield f"the global {key!r}", x.__globals__[key]
    elif isinstance(x, types.MethodType):
        yield name, x.__func__
        yield name, x.__self__
    elif isinstance(x, functools.partial):
        for held in (x.func, *x.args, *x.keywords.values()):
            yield name, held
    elif isinstance(x, types.GeneratorType):
        for key, value in (x.gi_frame.f_locals if x.gi_frame else {}).items():
            yield f"{key!r} of {_named(x)}", value
    elif isinstance(x, Mapping):
        yield f"the length of {name}", len(x)
        for key, value in itertools.islice(x.items(), MANY):
            yield f"{name}[{key!r}]", value
    elif isinstance(x, list | tuple | deque):
        yield f"the length of {name}", len(x)
        for at, value in enumerate(itertools.islice(x, MANY)):
            yield f"{name}[{at}]", value
    elif isinstance(x, set | frozenset):
        yield f"the length of {name}", len(x)
    else:
        for key, value in _variables(x).items():
            yield f"{key!r} of {_named(x) if isinstance(x, type) else type(x).__name__}", value


def _variables(x: object) -> dict[str, object]:
    """An object's attributes, and of a class of the user's its numbers."""
    if isinstance(x, type):
        theirs = x.__module__.partition(".")[0] not in (*LIBRARIES, "builtins")
        return {k: v for k, v in vars(x).items() if isinstance(v, int | float)} if theirs else {}
    slots = [getattr(kind, "__slots__", ()) for kind in type(x).__mro__]
    names = [n for s in slots for n in ((s,) if isinstance(s, str) else s)]
    own = dict(getattr(x, "__dict__", {}))
    return own | {n: getattr(x, n) for n in names if hasattr(x, n) and not n.startswith("__")}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and bool(a == b or (a != a and b != b))
