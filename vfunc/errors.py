"""Errors of this package, the user's own mistakes (`UserError`) among them.

The command line turns every `UserError` into its message and exit code 2; `--debug` shows
the traceback. The message says what is wrong, where, and what to do.
"""

from __future__ import annotations


class VfuncError(Exception):
    """Base of every error that this package raises on purpose."""


class UserError(VfuncError, ValueError):
    """Something the caller passed is wrong: a file, an option, a name, a shape."""


class NonFiniteError(VfuncError, ArithmeticError):
    """A loss, value or gradient is not finite; the message says which, and where."""


class NotConvergedError(VfuncError, ArithmeticError):
    """A solver stopped short of its tolerance; the message says how to go on."""


class CertificationError(VfuncError, ArithmeticError):
    """A value gradient is not the slope of its own objective, or a problem is not what it says.

    Attributes:
        certification: the whole `vfunc.certification.Certification`, the failure among its rows.
    """

    def __init__(self, message: str, certification: object = None) -> None:
        super().__init__(message)
        self.certification = certification
