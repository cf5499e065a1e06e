"""Runtime checks of shapes and types on the public surface: jaxtyping with beartype.

`@typed` on a public function checks its jaxtyping annotations at every call, about 40
microseconds. `VFUNC_TYPECHECK=0` in the environment switches the checks off, and they are off
inside `torch.compile`, where jaxtyping raises falsely.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from beartype import BeartypeConf, beartype
from jaxtyping import jaxtyped

_P = ParamSpec("_P")
_R = TypeVar("_R")

# By default beartype draws from Python's global random state to pick which item of a sequence it
# checks; checking must not change what a run draws.
_CHECKER = beartype(conf=BeartypeConf(is_random=False))

ENABLED = os.environ.get("VFUNC_TYPECHECK", "1") != "0"


def typed(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Check the annotations of `function` at every call (see the module's docstring)."""
    if not ENABLED:
        return function
    checked = jaxtyped(typechecker=_CHECKER)(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        return checked(*args, **kwargs)

    return call
