"""Numbers that a function keeps between its calls: counters, caches, random sources, tensors.

Looked at is what a Python function closes over, its globals, its defaults, its own attributes and
those of the object that it is a method of, and the attributes, buffers and hooks of modules.
"""

from __future__ import annotations

import array
import contextvars
import functools
import io
import itertools
import operator
import random
import sys
import types
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vfunc.problem.pieces_of_code import names_looked_up
from vfunc.problem.purity import version_of

MANY = 32
"""Entries of a collection that are followed, at most; numbers in it are all looked at."""

DEPTH = 16
"""How far functions, objects and collections are followed."""

LIBRARIES = ("torch", "numpy", "transformers", "timm", "vfunc")
"""Their functions' globals and classes are not followed: what they count is their own."""

MOST = 10_000
"""How many objects are looked at, at most."""

CHECKERS = ("beartype", "jaxtyping")
"""What their decorators remember is not looked at; the functions that they decorate are."""

OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}
"""Attributes that torch keeps of any module: parameters, buffers, modules, hooks."""

PLAIN = (bool, int, float, complex, str, bytes, type(None))
"""Types of values that are compared as they are."""

Kept = dict[tuple[str, int], Any]
"""By name and, where several have one name, by their order."""


def kept_by(function: object) -> Kept:
    """What a function keeps between its calls; copies, so that two can be compared.

    The parameters of modules are left out.

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
        try:
            same = at in before and at in now and _equal(now[at], before[at])
        except Exception:  # what cannot be compared tells nothing
            same = True
        if not same:
            return at[0]
    return ""


def _inside(x: object, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    """What x keeps, x itself if it is a number; what is nearest first, each object once.

    What raises when it is looked at is left out.

    Args:
        x: anything.
        name: how it is reached, for messages.
        depth: how far to go on.
    """
    ahead, seen = deque([(x, name, depth)]), dict[int, object]()
    while ahead and len(seen) < MOST:
        x, name, depth = ahead.popleft()
        if type(x) in PLAIN:
            yield name, x
        elif id(x) not in seen:
            seen[id(x)] = x  # held, so that no other object gets its identity
            try:
                own = _own_state(x)
                if own is not None:
                    yield name, own
                elif depth > 0:
                    held = list(_held_in(x, name))
                    ahead.extend((part, inner, depth - 1) for inner, part in held)
            except Exception:  # an object of the user's is free to raise: it is no part of this
                continue


def _named(x: object) -> str:
    return getattr(x, "__name__", type(x).__name__)


def _own_state(x: object) -> Any:
    """What can be compared of an object that is one number, or a source of them; else None."""
    if isinstance(x, Tensor):
        return None if x.is_meta else _numbers_of(x)
    if isinstance(x, np.ndarray):
        return [repr(one) for one in x.ravel()[:MOST]] if x.dtype == object else x.copy()
    if isinstance(x, torch.Generator):
        return x.get_state()
    if isinstance(x, random.Random):
        return x.getstate()
    if isinstance(x, np.random.RandomState):
        return repr(x.get_state(legacy=False))
    if isinstance(x, np.random.Generator):
        return repr(x.bit_generator.state)
    if isinstance(x, bytearray | array.array | memoryview):
        return bytes(x)
    if isinstance(x, itertools.count):
        return repr(x)
    if isinstance(x, contextvars.ContextVar):
        held = x.get(None)
        return repr(held) if type(held) in PLAIN else None
    if isinstance(x, io.IOBase):
        return x.tell()
    if isinstance(x, types.GeneratorType) or not isinstance(x, Iterator) or hasattr(x, "__dict__"):
        return None
    left = operator.length_hint(x, -1)
    return left if left >= 0 else _Unseen()


class _Unseen:
    """An iterator whose place cannot be seen: it counts as moved on, equal to none."""


def _numbers_of(x: Tensor) -> tuple[int, tuple[int, ...], str]:
    """How often a tensor has been written to, its shape, and what its numbers add up to.

    A copy of each would hold what a learner of any size closes over twice. Of small ones the order
    of the numbers counts too.
    """
    plain = x.detach()
    plain = plain if plain.layout is torch.strided else plain.to_dense()
    if plain.numel() <= MOST:
        said = repr(plain.tolist())
    elif plain.is_floating_point() or plain.is_complex():
        wide = torch.complex128 if plain.is_complex() else torch.float64
        said = repr(torch.linalg.vector_norm(plain, 1, dtype=wide).item())
    else:
        said = repr(plain.sum().item())
    return version_of(x), tuple(x.shape), said


def _attributes(module: nn.Module) -> Iterator[tuple[str, object]]:
    """What a module and those in it hold, but for parameters: buffers, attributes, hooks."""
    for path, part in module.named_modules():
        where = f"{type(part).__name__}{f' {path!r}' if path else ''}"
        kept = {k: v for k, v in vars(part).items() if k not in OF_EVERY_MODULE} | part._buffers
        hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        for name, value in kept.items():
            yield f"{name!r} of {where}", value
        for hook in hooks:
            yield f"a hook of {where}", hook


def _held_in(x: object, name: str) -> Iterator[tuple[str, object]]:
    """What an object leads to, with names for messages."""
    if isinstance(x, nn.Module):
        yield from _attributes(x)
    elif isinstance(x, types.FunctionType):
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
            if key == "__wrapped__" or not key.startswith("__"):
                yield f"{key!r} of {owner}", value
        if home not in LIBRARIES:
            names = names_looked_up(x.__code__)
            for key in (name for name in names if name in x.__globals__):
                held = x.__globals__[key]
                yield f"the global {key!r}", held
                if isinstance(held, types.ModuleType) and _is_theirs(held.__name__):
                    for inner in (name for name in names if name in vars(held)):
                        yield f"the global {key}.{inner}", vars(held)[inner]
    elif isinstance(x, types.MethodType):
        yield name, x.__func__
        yield name, x.__self__
    elif isinstance(x, functools.partial):
        for held in (x.func, *x.args, *x.keywords.values()):
            yield name, held
    elif isinstance(x, functools._lru_cache_wrapper):
        yield f"the cache of {name}", repr(x.cache_info())
        yield name, x.__wrapped__
    elif isinstance(x, types.GeneratorType):
        for key, value in (x.gi_frame.f_locals if x.gi_frame else {}).items():
            yield f"{key!r} of {_named(x)}", value
    elif isinstance(x, types.ModuleType):
        return
    elif isinstance(x, Mapping):
        yield from _entries(name, [(f"{name}[{key!r}]", value) for key, value in x.items()])
    elif isinstance(x, list | tuple | deque):
        yield from _entries(name, [(f"{name}[{at}]", value) for at, value in enumerate(x)])
    elif isinstance(x, set | frozenset):
        yield f"what is in {name}", repr(sorted(map(repr, itertools.islice(x, MOST))))
    else:
        for key, value in _variables(x).items():
            yield f"{key!r} of {_named(x) if isinstance(x, type) else type(x).__name__}", value


def _entries(name: str, held: list[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    """The first entries of a collection, its length, and the numbers beyond."""
    yield f"the length of {name}", len(held)
    yield from held[:MANY]
    beyond = [value for _, value in held[MANY : MANY + MOST] if type(value) in PLAIN]
    if beyond:
        yield f"what is in {name}", repr(beyond)


def _variables(x: object) -> dict[str, object]:
    """An object's attributes, and those of a class of the user's, but for functions."""
    if isinstance(x, type):
        if not _is_theirs(x.__module__):
            return {}
        plain = {k: v for k, v in vars(x).items() if not k.startswith("__") and not callable(v)}
        return {k: v for k, v in plain.items() if not isinstance(v, property | classmethod)}
    slots = [(kind, getattr(kind, "__slots__", ())) for kind in type(x).__mro__]
    names = [
        f"_{kind.__name__.lstrip('_')}{n}" if n.startswith("__") and not n.endswith("__") else n
        for kind, own in slots
        for n in ((own,) if isinstance(own, str) else own)
    ]
    held: dict[str, object] = dict(getattr(x, "__dict__", None) or {})
    held |= {n: getattr(x, n) for n in names if hasattr(x, n) and not n.endswith("__")}
    if _is_theirs(type(x).__module__):
        held["its class"] = type(x)
    return held


def _is_theirs(module: str | None) -> bool:
    """Whether a module is the user's own, and not Python's or of a library that is known."""
    root = str(module).partition(".")[0]
    return root not in sys.stdlib_module_names and root not in (*LIBRARIES, "builtins")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and bool(a == b or (a != a and b != b))
