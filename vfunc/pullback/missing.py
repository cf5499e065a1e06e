"""Tells where an operation of the learner lacks the derivative that an engine needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from vfunc.errors import UserError, VfuncError

_SAYS = re.compile(
    r"derivative for|derivative is not implemented|derivative of '?\w+'? is not implemented|"
    r"forward AD|forward-mode|forward mode|jvp|double backward|once_differentiable|"
    r"donated buffer|setup_context|differentiated twice|differentiate twice|"
    r"doesn't have storage|not supported|(?:does not|don't yet|doesn't yet) support|"
    r"saved tensor hooks|sparse|vmap|functorch|functionalization|batching rule|"
    r"no autograd formula",
    re.IGNORECASE,
)
"""How torch tells that a derivative, or a kind of differentiation, is not there."""

_OPERATION = re.compile(
    r"(?:derivative for|derivative of|forward AD with) '?(?:aten::)?(\w+)|aten::(\w+)|"
    r"backward through ([\w.]+?)(?:\.default)? but|(\w+)\.setup_context|"
    r"the custom autograd\.Function (\w+)|function (\w+Backward\w*)"
)

KINDS = {
    "linear": "a forward mode",
    "forward": "a forward mode of its backward pass",
    "reverse": "a double backward",
    "finite_difference": "a backward pass",
}
"""What each engine needs of every operation between theta and the loss."""


REMEDIES = {
    "linear": "take the engine reverse or finite_difference",
    "forward": "take the engine reverse or finite_difference",
    "reverse": "take the engine forward or finite_difference",
    "finite_difference": "take the learner's plain operations (eager, not compiled)",
}


class MissingDerivativeError(UserError):
    """An operation of the learner lacks the derivative that an engine needs.

    Attributes:
        operation: its name, as far as torch tells.
        said: what torch said, in a line.
    """

    def __init__(self, engine: str, operation: str, said: str) -> None:
        self.engine, self.operation, self.said = engine, operation, said
        needs = KINDS.get(engine, "a derivative")
        remedy = REMEDIES.get(engine, "take the engine finite_difference")
        super().__init__(
            f"the engine {engine!r} needs {needs} of every operation of the learner, and "
            f"{operation or 'one'} has none: {remedy} ({said})"
        )


@contextmanager
def missing_told(engine: str) -> Iterator[None]:
    """Tell in one line which operation lacks the derivative that an engine needs.

    Args:
        engine: its name.

    Raises:
        MissingDerivativeError: in place of torch's own error.
    """
    try:
        yield
    except VfuncError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        said = " ".join(str(error).split())
        if not _SAYS.search(said):
            raise
        raise MissingDerivativeError(engine, operation_in(said), shortened(said)) from error


def operation_in(said: str) -> str:
    """The operation that an error of torch's names; "" if it names none."""
    found = _OPERATION.search(said)
    return next((name for name in found.groups() if name), "") if found else ""


def shortened(said: str, most: int = 160) -> str:
    """The beginning of what torch said."""
    first = re.split(r"(?<=[a-z])\. ", said)[0]
    return first if len(first) <= most else first[: most - 3] + "..."
