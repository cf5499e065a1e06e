"""A stand-in for torch while `--help` is told, of which nothing that help could show can be made.

Options are declared beside what they configure, in modules that import torch, and torch takes
seconds to import. Of it their help needs no more than names to derive from and to annotate with. So
a child process tells the help in which torch is a stand-in: each of its names is a class that can
be called, subclassed and subscripted, and from which no text, number, truth, order or length comes.
Where help takes one all the same, or ends otherwise than well, the child says nothing, and the help
is told with torch, as it would be without this.
"""

from __future__ import annotations

import importlib.machinery
import io
import os
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType
from typing import Any, NoReturn, TextIO, cast

HEAVY = ("torch",)
"""What is stood in for: no help needs it, and it takes long to import."""


class StandInError(Exception):
    """A value was asked of a stand-in."""


def told_without_torch(words: Sequence[str], tell: Callable[[], int]) -> bool:
    """Tell a command's help without torch, if that is what is asked and can be done.

    Args:
        words: the command line, without the program's name. Nothing beside `--help` and
            `--modality` is followed: other options name files, and code of the user's own.
        tell: what imports the command and carries out the line; returns the exit code.

    Returns:
        Whether the help has been told. Where it has not, nothing was printed.
    """
    if not _help_alone(words) or any(name in sys.modules for name in HEAVY):
        return False
    if not hasattr(os, "fork") or threading.active_count() > 1:
        return False
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        child = os.fork()
    except OSError:
        return False
    if not child:
        os._exit(_told(tell))
    return os.waitpid(child, 0)[1] == 0


def _help_alone(words: Sequence[str]) -> bool:
    rest = list(words)
    asked = [rest.remove(word) for word in ("--help", "-h") if word in rest]
    return len(asked) == 1 and (not rest or (rest[0] == "--modality" and len(rest) == 2))


def _told(tell: Callable[[], int]) -> int:
    """The child's exit code: 0 where the help is told, all of it."""
    real, held = (sys.stdout, sys.stderr), (_Held(sys.stdout), _Held(sys.stderr))
    try:
        os.environ["VFUNC_TYPECHECK"] = "0"  # there is no tensor whose shape could be checked
        sys.meta_path.insert(0, _Finder())
        sys.stdout, sys.stderr = (cast("TextIO", stream) for stream in held)
        if tell() != 0:
            return 1
        for stream, text in zip(real, held, strict=True):
            stream.write(text.getvalue())
            stream.flush()
    except BaseException:  # whatever it is, it is for the parent to meet
        return 1
    return 0


class _Held(io.StringIO):
    """A stream that keeps what is written, and is otherwise the one it is in the place of."""

    def __init__(self, real: TextIO) -> None:
        super().__init__(newline="")
        self._real = real

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]  # as in io
        """See `io.TextIOBase`."""
        return self._real.encoding

    def isatty(self) -> bool:
        """See `io.IOBase`."""
        return self._real.isatty()

    def fileno(self) -> int:
        """See `io.IOBase`."""
        return self._real.fileno()


def _refused(*_: object, **__: object) -> NoReturn:
    raise StandInError("help takes a value of torch's")


class _Kind(type):
    """The class of every name of a stand-in."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        found = _named(name)
        setattr(cls, name, found)
        return found

    def __call__(cls, *args: Any, **options: Any) -> Any:
        if cls.__module__ not in HEAVY:  # a class of the package's own that derives from one
            return super().__call__(*args, **options)
        one = args[0] if len(args) == 1 and not options else None
        # a decorator, or what makes one: what it is put on stays as it is
        return one if callable(one) and not isinstance(one, _Kind) else _named("value")

    def __getitem__(cls, key: object) -> Any:
        return cls

    def __bool__(cls) -> bool:
        if cls.__name__[:1].isupper():
            return True  # a class; what else there is may be a number, or None
        _refused()

    __str__ = __repr__ = __format__ = __len__ = __iter__ = __contains__ = _refused
    __lt__ = __le__ = __gt__ = __ge__ = __int__ = __float__ = __index__ = _refused
    __add__ = __sub__ = __mul__ = __truediv__ = __neg__ = __invert__ = _refused


def _named(name: str) -> Any:
    if name.endswith("Error"):  # what is caught has to be an exception
        return type(name, (Exception,), {})
    return _Kind(name, (), {"__module__": HEAVY[0]})


class _Module(ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # what is below it is a stand-in too

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        found = _named(name)
        setattr(self, name, found)
        return found


class _Finder(MetaPathFinder, Loader):
    """What stands in for a package that is there; one that is not is missed as ever."""

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        top = fullname.partition(".")[0]
        if top in HEAVY and importlib.machinery.PathFinder.find_spec(top) is not None:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: its names are made when they are asked for."""
