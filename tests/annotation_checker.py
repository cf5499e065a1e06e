"""What the import hook of the tests checks annotations with."""

from __future__ import annotations

import sys

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
