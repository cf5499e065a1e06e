"""Tells one piece of code from another, and remembers which ones have been looked at.

Looks at a problem's functions are taken once for each piece of code: closures that a loop makes
anew are the same one, and what switches a function to other operations makes it another.
"""

from __future__ import annotations

import enum
import functools
import itertools
import types
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

REMEMBERED = 512
"""How many pieces of code are remembered, at most."""

MANY = 32
"""Entries of a collection that tell one piece of code from another, at most."""

MOST_PARTS = 2000
"""Objects that are looked at to tell one piece of code from another, at most."""

MOST_MODES = 16
"""The largest whole number that may choose what code does; a counter of steps soon is beyond it."""

MOST_VARIANTS = 8
"""How often code may differ in the words that objects hold, until these are data."""

LONG = 64
"""Length of the words that are kept as they are; of longer ones the hash is."""

_watched: OrderedDict[Hashable, None] = OrderedDict()

# not a WeakKeyDictionary: a module may define an equality of its own
_numbers: dict[int, tuple[weakref.ref[Any], int]] = {}
_count = itertools.count()


def code_of(x: object, depth: int = 4) -> Hashable:
    """What tells one piece of code from another, the same for closures that a loop makes anew.

    Of what a function closes over, looks up among its globals, or finds on its owner, these count:
    truth values, members of enumerations, other functions and types, modules with their switches,
    and what objects and collections hold of these and of words; of what functions hold themselves
    words, and whole numbers up to `MOST_MODES`, too, and of other numbers whether they are zero.
    Tensors do not. Of code that has shown `MOST_VARIANTS` faces, words of objects count no longer:
    they are data.

    Args:
        x: anything that is called, or that a function closes over.
        depth: how far functions and objects are followed.
    """
    root = _root(x)
    try:
        found = _Walk().code(x, depth)
        face = hash(found)
    except Exception:  # an object of the user's is free to raise: its code or type tells it
        return root
    faces = _faces.setdefault(root, set())
    _faces.move_to_end(root)
    if face not in faces:
        if len(faces) >= MOST_VARIANTS:
            return _Walk(words=False).code(x, depth)
        faces.add(face)
        while len(_faces) > REMEMBERED:
            _faces.popitem(last=False)
    return found


_faces: OrderedDict[Hashable, set[int]] = OrderedDict()


def _root(x: Any) -> Hashable:
    """The code that is called, whatever it holds."""
    if isinstance(x, functools.partial):
        return _root(x.func)
    return getattr(getattr(x, "__func__", x), "__code__", None) or type(x).__qualname__


class _Walk:
    """One walk through what a function holds, which looks at no object twice.

    Nothing that it returns keeps an object alive, but code and enumerations.
    """

    def __init__(self, *, words: bool = True) -> None:
        self.words = words  # whether those of objects and collections count
        # the objects themselves: an identity comes again once its object is gone
        self.seen: dict[int, tuple[object, int]] = {}

    def code(self, x: object, depth: int) -> Hashable:
        """See `code_of`."""
        try:
            if x is None or isinstance(x, bool | torch.dtype | torch.device):
                return x
            if isinstance(x, enum.Enum):
                return (type(x).__qualname__, x.name)
            if isinstance(x, str):
                return x if len(x) <= LONG else hash(x)
            if isinstance(x, int) and abs(x) <= MOST_MODES:
                return (int, int(x))
            if isinstance(x, int | float):
                return (type(x), x == 0)
            if isinstance(x, type):
                return self._type(x, depth)
            known = self.seen.get(id(x))
            if known is not None and known[0] is x and known[1] >= depth:
                return ("seen", _number_of(type(x)))
            self.seen[id(x)] = (x, depth)
            return self._held(x, depth)
        except Exception:  # as above
            return getattr(x, "__code__", None) or type(x).__qualname__

    def _held(self, x: Any, depth: int) -> Hashable:
        if isinstance(x, nn.Module):
            return tuple((_number_of(part), *_switches(part)) for part in x.modules())
        if isinstance(x, types.MethodType):
            return (self.code(x.__func__, depth), self.code(x.__self__, depth))
        if isinstance(x, types.FunctionType):
            return self._function(x, depth)
        if isinstance(x, _NATIVE):
            return (x.__qualname__, self.code(getattr(x, "__self__", None), 0))
        if isinstance(x, functools.partial) and depth > 0:
            held = (x.func, *x.args, *x.keywords.values())
            return (*x.keywords, *(self.code(part, depth - 1) for part in held))
        kind = self._type(type(x), min(depth, 1))
        if depth <= 0 or len(self.seen) > MOST_PARTS or isinstance(x, _NO_CODE):
            return kind
        if isinstance(x, set | frozenset):
            return (kind, frozenset(self._parts(enumerate(x), depth).values()))
        if isinstance(x, list | tuple):
            return (kind, *self._parts(enumerate(x), depth).items())
        held = x if isinstance(x, dict) else _attributes(x)
        return (kind, *self._parts(held.items(), depth).items())

    def _parts(self, held: Iterable[tuple[Any, Any]], depth: int) -> dict[Hashable, Hashable]:
        """The parts of an object or a collection that may be code: others are left out."""
        found: dict[Hashable, Hashable] = {}
        looked_at = 0
        for name, part in held:
            if isinstance(part, (*_NO_CODE, int, float)) and not isinstance(part, bool | enum.Enum):
                continue  # an object's numbers count its calls, more often than they switch them
            if isinstance(part, str) and not self.words:
                continue
            if not isinstance(part, _ALWAYS):
                looked_at += 1
                if looked_at > MANY:
                    continue
            key = name if isinstance(name, str | int) else self.code(name, 0)
            found[key] = self.code(part, depth - 1)
        return found

    def _function(self, x: types.FunctionType, depth: int) -> Hashable:
        if depth <= 0:
            return x.__code__
        cells = [content_of(cell) for cell in x.__closure__ or ()]
        defaults = [*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()]
        named = [x.__globals__[n] for n in names_looked_up(x.__code__) if n in x.__globals__]
        held = (*cells, *defaults, *named)
        # what is decorated is no deeper than without
        deeper = [depth if part is x.__dict__.get("__wrapped__") else depth - 1 for part in held]
        return (x.__code__, *(self.code(part, d) for part, d in zip(held, deeper, strict=True)))

    def _type(self, x: type, depth: int) -> Hashable:
        """A class; one that a function makes by its methods: each call makes it anew."""
        if "<locals>" not in x.__qualname__:
            return (x.__module__, x.__qualname__, _number_of(x))
        own = [getattr(held, "__func__", held) for held in vars(x).values()]
        methods = (held for held in own if isinstance(held, types.FunctionType))
        return (x.__qualname__, *(self.code(method, depth - 1) for method in methods))


_NATIVE = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
)
_NO_CODE = (Tensor, types.ModuleType, bytes, bytearray)
_ALWAYS = (bool, type, types.FunctionType, types.MethodType, nn.Module, enum.Enum)


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
        names = (own,) if isinstance(own, str) else own
        slots += (
            f"_{kind.__name__.lstrip('_')}{n}" if n.startswith("__") and not n.endswith("__") else n
            for n in names
        )
    held = {name: getattr(x, name) for name in slots if hasattr(x, name)}
    return held | getattr(x, "__dict__", {})


def _number_of(one: nn.Module | type) -> int:
    """Its own number, which no other ever has: identities come again once one is gone."""
    place = id(one)
    known = _numbers.get(place)
    if known is not None and known[0]() is one:
        return known[1]

    def forget(gone: weakref.ref[Any]) -> None:
        held = _numbers.get(place)
        if held is not None and held[0] is gone:
            del _numbers[place]

    number = next(_count)
    _numbers[place] = weakref.ref(one, forget), number
    return number


def content_of(cell: types.CellType) -> object:
    """What a closure holds; None of a name that is not bound yet."""
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


def names_looked_up(code: types.CodeType) -> list[str]:
    """Names that a piece of code looks up, those of functions in it included."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return [*code.co_names, *(name for c in inner for name in names_looked_up(c))]
