"""Watches that a problem's own functions change nothing that is passed to them or that they run.

A function's first call is watched closely: what it was given is copied, and the modules that it
reaches are looked at. Later calls of the same code compare version counters alone.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import itertools
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vfunc.errors import UserError
from vfunc.problem.arguments import blaming

REMEMBERED = 512
"""How many pieces of code are remembered, at most."""

MANY = 32
"""Entries of a collection that tell one piece of code from another, at most."""

MOST_PARTS = 2000
"""Objects that are looked at to tell one piece of code from another, at most."""

MOST_MODES = 16
"""The largest whole number that may choose what code does; a counter of steps soon is beyond it."""

MOST_HELD = 1000
"""Entries of a collection in which modules are sought, at most."""

_watched: OrderedDict[Hashable, None] = OrderedDict()

# not a WeakKeyDictionary: a module may define an equality of its own
_numbers: dict[int, tuple[weakref.ref[nn.Module], int]] = {}
_count = itertools.count()


def code_of(x: object, depth: int = 4) -> Hashable:
    """What tells one piece of code from another, the same for closures that a loop makes anew.

    Of what a function closes over, looks up among its globals, or finds on its owner, these count:
    truth values, words, members of enumerations, whole numbers up to `MOST_MODES`, other functions
    and types, modules with their switches, and what objects hold of all these; of other numbers
    whether they are zero; tensors do not.

    Args:
        x: anything that is called, or that a function closes over.
        depth: how far functions and objects are followed.
    """
    return _Walk().code(x, depth)


class _Walk:
    """One walk through what a function holds, which looks at no object twice."""

    def __init__(self) -> None:
        # the objects themselves: an identity comes again once its object is gone
        self.seen: dict[int, tuple[object, int, int]] = {}

    def code(self, x: object, depth: int) -> Hashable:
        """See `code_of`."""
        if x is None or isinstance(x, bool | str | bytes):
            return x
        if isinstance(x, enum.Enum):
            return (type(x), x.name)
        if isinstance(x, int | float):
            if isinstance(x, int) and abs(x) <= MOST_MODES:
                return (int, int(x))
            return (type(x), x == 0)
        if isinstance(x, type):
            return x
        known = self.seen.get(id(x))
        if known is not None and known[0] is x and known[1] >= depth:
            return ("seen", known[2])
        if len(self.seen) >= MOST_PARTS:
            return type(x)
        self.seen[id(x)] = (x, depth, len(self.seen) if known is None else known[2])
        try:
            return self._held(x, depth)
        except Exception:  # an object of the user's is free to raise: its type tells it
            return type(x)

    def _held(self, x: Any, depth: int) -> Hashable:
        if isinstance(x, Tensor | types.ModuleType):
            return type(x)
        if isinstance(x, nn.Module):
            return tuple((type(part), _number_of(part), *_switches(part)) for part in x.modules())
        if isinstance(x, types.MethodType):
            return (self.code(x.__func__, depth), self.code(x.__self__, depth))
        if isinstance(x, types.FunctionType):
            return self._function(x, depth)
        if isinstance(x, types.BuiltinFunctionType):
            return (x.__name__, self.code(x.__self__, 0))
        if depth <= 0:
            return type(x)
        if isinstance(x, functools.partial):
            held = (x.func, *x.args, *x.keywords.values())
            return ("partial", *(self.code(part, depth - 1) for part in held))
        if isinstance(x, dict | list | tuple | set | frozenset):
            if len(x) > MANY:
                return type(x)
            held = list(x.items()) if isinstance(x, dict) else list(x)
            found = [self.code(part, depth - 1) for part in held]
            return (type(x), frozenset(found) if isinstance(x, set | frozenset) else tuple(found))
        held = itertools.islice(_attributes(x).items(), MANY)
        return (type(x), *((name, self.code(part, depth - 1)) for name, part in held))

    def _function(self, x: types.FunctionType, depth: int) -> Hashable:
        if depth <= 0:
            return x.__code__
        cells = [_content(cell) for cell in x.__closure__ or ()]
        defaults = [*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()]
        named = [x.__globals__[n] for n in names_looked_up(x.__code__) if n in x.__globals__]
        held = (*cells, *defaults, *named)
        # what is decorated is no deeper than without
        deeper = [depth if part is x.__dict__.get("__wrapped__") else depth - 1 for part in held]
        return (x.__code__, *(self.code(part, d) for part, d in zip(held, deeper, strict=True)))


def _switches(module: nn.Module) -> list[Hashable]:
    """What of a module's attributes may switch its forward."""
    return [
        value
        for value in vars(module).values()
        if type(value) in _SWITCHING and (type(value) is not int or abs(value) <= MOST_MODES)
    ]


_SWITCHING = frozenset((bool, str, int))


def _attributes(x: object) -> dict[str, Any]:
    """What an object holds by name, in its slots or its dictionary."""
    slots: list[str] = []
    for kind in type(x).__mro__:
        own = kind.__dict__.get("__slots__", ())
        slots += (own,) if isinstance(own, str) else own
    held = {name: getattr(x, name) for name in slots if hasattr(x, name)}
    return held | getattr(x, "__dict__", {})


def _number_of(module: nn.Module) -> int:
    """A module's own number, which no other ever has: identities come again once one is gone."""
    place = id(module)
    known = _numbers.get(place)
    if known is not None and known[0]() is module:
        return known[1]

    def forget(gone: weakref.ref[nn.Module]) -> None:
        held = _numbers.get(place)
        if held is not None and held[0] is gone:
            del _numbers[place]

    number = next(_count)
    _numbers[place] = weakref.ref(module, forget), number
    return number


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return None


def first_time(key: Hashable) -> bool:
    """Whether nothing has been remembered under this key; `remember` does."""
    return key not in _watched


def remember(key: Hashable) -> None:
    """Let `first_time` know the key from now on."""
    _watched[key] = None
    _watched.move_to_end(key)
    while len(_watched) > REMEMBERED:
        _watched.popitem(last=False)


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
        return not torch.allclose(self.tensor, self.copy, rtol=0, atol=0, equal_nan=True)


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
    """The tensors of a batch by key, place or attribute; by None where it is one itself."""
    if isinstance(batch, Tensor):
        return {None: batch}
    if isinstance(batch, Mapping):
        held = dict(batch)
    elif isinstance(batch, list | tuple):
        held = dict(enumerate(batch))
    else:
        held = getattr(batch, "__dict__", {})
    return {key: x for key, x in held.items() if isinstance(x, Tensor)}


def _entry(kind: str, key: object) -> str:
    return kind if key is None else f"{kind}[{key!r}]"


def _equal(x: Tensor, copy: Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN included; those without storage do."""
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
        cells = [_content(cell) for cell in x.__closure__ or ()]
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


def names_looked_up(code: types.CodeType) -> list[str]:
    """Names that a piece of code looks up, those of functions in it included."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return [*code.co_names, *(name for c in inner for name in names_looked_up(c))]


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
