"""What the import hook of the tests checks annotations with."""

from __future__ import annotations

import builtins
import collections
import dataclasses
import functools
import inspect
import re
import sys
from typing import ParamSpec

import jaxtyping
from beartype import BeartypeConf, beartype

# by default beartype draws from Python's global random state, which tests of purity would see
_check = beartype(conf=BeartypeConf(is_random=False))

SELF_CHECKED = {"ValueProblem.__init__", "ValueEstimate.descend", "functional", "from_optimizer"}


def check(function):
    """Check the annotations of `function` at every call.

    Options, problems and a few methods check their arguments themselves, and say what they want: a
    check of the annotations would come before that.
    """
    module = vars(sys.modules.get(function.__module__, sys))
    options = function.__name__ == "__init__" and "check_fields" in module
    if options or function.__qualname__ in SELF_CHECKED:
        return function
    return _check(function)


def jaxtyped(thing=None, *, typechecker, shaped=jaxtyping.jaxtyped):
    """`jaxtyping.jaxtyped` where annotations speak of shapes, and the checker alone elsewhere.

    What jaxtyping does for shapes at each call costs tens of microseconds, and most functions have
    none. It would be half of the time of tests that call small functions often.
    """
    if thing is None:
        return lambda thing: jaxtyped(thing, typechecker=typechecker)
    if isinstance(thing, classmethod | staticmethod):
        return type(thing)(jaxtyped(thing.__func__, typechecker=typechecker))
    if inspect.isfunction(thing):
        return sparing(thing, lambda: _checked(thing, typechecker, shaped))
    if dataclasses.is_dataclass(thing) and "__init__" in vars(thing) and plain(thing.__init__):
        thing.__init__ = typechecker(thing.__init__)
        return thing
    return shaped(thing, typechecker=typechecker)


def _checked(function, typechecker, shaped):
    return typechecker(function) if plain(function) else shaped(function, typechecker=typechecker)


MOST = 20
"""How many calls of a function are checked in each test: what a test passes to a function seldom
changes its types after that, and solvers make thousands of calls."""

MOST_INNER = 2
"""How many of the functions that a function makes at each of its calls are checked in each test:
making a check takes longer than most of what they do."""

calls: collections.Counter = collections.Counter()
"""How many calls of each function have been checked in this test."""


def sparing(function, check):
    """A function whose first calls in a test are checked.

    Args:
        function: any function of the package.
        check: makes the function that is checked at every call; not before it is needed.
    """
    code = function.__code__  # the function itself would keep what an inner one closes over
    if "<locals>" in function.__qualname__:
        made = ("made", code)
        if calls[made] >= MOST_INNER:
            return function
        calls[made] += 1
    checked = None

    @functools.wraps(function)
    def call(*args, **kwargs):
        if calls[code] >= MOST:
            return function(*args, **kwargs)
        calls[code] += 1
        nonlocal checked
        if checked is None:
            checked = check()
        return checked(*args, **kwargs)

    return call


def plain(function):
    """Whether a function's annotations have no shapes, be it by an alias, and are all resolved."""
    there = vars(builtins) | function.__globals__
    for annotation in function.__annotations__.values():
        if not isinstance(annotation, str):  # resolved already
            kinds = [annotation]
        else:
            text = re.sub(r"'[^']*'|\"[^\"]*\"", "", annotation)  # without the words of Literal
            kinds = [resolved(name, there) for name in re.findall(r"(?<![\w.])[^\W\d][\w.]*", text)]
        if any(kind is None or "jaxtyping" in repr(kind) for kind in kinds):
            return False
    return True


def resolved(name, there):
    """What a dotted name in an annotation stands for; None if that is not known yet."""
    head, *rest = name.split(".")
    if name == "None":
        return type(None)
    if isinstance(there.get(head), ParamSpec):
        return None
    return functools.reduce(lambda value, part: getattr(value, part, None), rest, there.get(head))
