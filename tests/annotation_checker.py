"""What the import hook of the tests checks annotations with."""

from __future__ import annotations

import builtins
import collections
import dataclasses
import functools
import inspect
import re
import sys
import types
from typing import ParamSpec

import jaxtyping
from beartype import BeartypeConf, beartype

# by default beartype draws from Python's global random state, which tests of purity would see
_check = beartype(conf=BeartypeConf(is_random=False))

SELF_CHECKED = {
    *("ValueProblem.__init__", "ValueEstimate.descend", "UpdateRule.__init__"),
    *("functional", "from_optimizer"),
}


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


MOST = 5
"""How many calls of a function are checked in each test: what a test passes to a function seldom
changes its types after that, and solvers make thousands of calls."""

MOST_INNER = 2
"""The same for functions that a function makes at each of its calls: making a check takes longer
than most of what they do."""


class Calls:
    """How many calls of each function have been checked in this test."""

    def __init__(self):
        self.of = collections.Counter()

    def clear(self):
        """Begin a test."""
        self.of.clear()


calls = Calls()


class Checked:
    """A function that is checked at every call, made when it is needed."""

    def __init__(self, code, check, most):
        self.kept = types.ModuleType("kept")  # into which the package does not look
        self.kept.code, self.kept.check, self.kept.most = code, check, most
        self.kept.function = None

    def due(self):
        """Whether another call is to be checked."""
        if calls.of[self.kept.code] >= self.kept.most or sys.is_finalizing():
            return False
        calls.of[self.kept.code] += 1
        return True

    def get(self):
        """The function."""
        if self.kept.function is None:
            self.kept.function = self.kept.check()
        return self.kept.function


def sparing(function, check):
    """A function whose first calls in a test are checked.

    What is kept for it stands in an object: the package looks at what functions close over.

    Args:
        function: any function of the package.
        check: makes the same with checks.
    """
    inner = "<locals>" in function.__qualname__
    # by its code: the function itself would keep what an inner one closes over
    checked = Checked(function.__code__, check, MOST_INNER if inner else MOST)
    if not inner:  # now: a test may have put something else in the place of a class by then
        checked.get()

    @functools.wraps(function)
    def call(*args, **kwargs):
        return checked.get()(*args, **kwargs) if checked.due() else function(*args, **kwargs)

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
