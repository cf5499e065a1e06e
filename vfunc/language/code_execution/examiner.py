"""The part of a jail that holds the tests of a learner's program, which runs in another jail.

A name of the program is a stand-in here: a call goes over as plain data, and plain data come back.
Comparisons and assertions are made on this side, so that a program passes by what it computes and
by nothing else: to end early, to print, to patch what `assert` uses or to return an object that
equals everything is to fail.
"""

from __future__ import annotations

import builtins
import json
import os
from typing import Any, NoReturn

from vfunc.language.code_execution.wire import WireError, decoded, encoded, received, sent


class Failed(Exception):
    """The program did something that no test expects."""


class Remote:
    """An object of the program's, by its number. Equal to itself alone."""

    __slots__ = ("_asks", "_number")

    def __init__(self, asks: Asking, number: int | None) -> None:
        object.__setattr__(self, "_asks", asks)
        object.__setattr__(self, "_number", number)

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Call it there."""
        return self._asks("call", self, [*given, *named.values()], list(named))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # no test's module looks for a way of its own to copy it
        return self._asks("attribute", self, [name])

    def __setattr__(self, name: str, value: Any) -> None:
        self._asks("set", self, [name, value])

    def __getitem__(self, key: Any) -> Any:
        return self._asks("item", self, [key])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._asks("put", self, [key, value])

    def __iter__(self) -> Any:
        return self._asks("iterate", self)

    def __next__(self) -> Any:
        return self._asks("next", self)

    def __len__(self) -> int:
        return _plain(self._asks("length", self), int)

    def __bool__(self) -> bool:
        return _plain(self._asks("truth", self), bool)

    def __str__(self) -> str:
        return _plain(self._asks("text", self), str)


def _plain(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise Failed(f"{kind.__name__} expected")
    return value


class Asking:
    """The line to the program."""

    def __init__(self, fds: dict[str, int]) -> None:
        self.fds = fds
        self.remotes: dict[int, Remote] = {}
        self.names: frozenset[str] = frozenset(self._answer()["names"])

    def __call__(
        self,
        do: str,
        target: Remote | None,
        arguments: list[Any] | None = None,
        names: list[str] | None = None,
    ) -> Any:
        """Ask for one thing, and give back what came of it."""
        given = arguments or []
        message = {
            "do": do,
            "target": None if target is None else target._number,
            "arguments": [encoded(one, self._number_of) for one in given],
            "names": names or [],
        }
        sent(self.fds["write"], message)
        said = self._answer(may_stop=do == "next")
        for one, after in zip(given, said.get("arguments", ()), strict=False):
            if type(one) in (list, dict, set):
                _changed(one, decoded(after, self._held))
        return decoded(said["value"], self._held)

    def name(self, name: str) -> Any:
        """What the program calls by a name."""
        return self("name", None, [name])

    def _answer(self, *, may_stop: bool = False) -> dict[str, Any]:
        said = received(self.fds["read"])
        if not isinstance(said, dict):
            raise WireError("a message that makes no sense")
        if "raised" in said:
            kind = str(said["raised"])
            # a call that stops an iteration of the tests' own would end it before its time
            if may_stop or kind not in ("StopIteration", "StopAsyncIteration"):
                _raise(kind, str(said.get("text", "")))
            raise Failed(kind)
        return said

    def _number_of(self, value: Any) -> int | None:
        return value._number if type(value) is Remote else None

    def _held(self, number: int) -> Remote:
        return self.remotes.setdefault(number, Remote(self, number))


def _changed(ours: Any, theirs: Any) -> None:
    """What a call did to an argument in place."""
    if type(ours) is not type(theirs) or ours == theirs:
        return
    ours.clear()
    (ours.extend if type(ours) is list else ours.update)(theirs)


def _raise(kind: str, text: str) -> NoReturn:
    """An exception of the program's, as a test may expect it; never one that ends the tests."""
    known = getattr(builtins, kind, None)
    if isinstance(known, type) and issubclass(known, Exception):
        try:
            error = known(text)
        except Exception:
            error = None
        if error is not None:
            raise error
    raise Failed(f"{kind}: {text}")


def run(fds: dict[str, int], given: dict[str, Any]) -> None:
    """Hold the tests, and say whether all of them passed.

    Args:
        fds: the line to the program (`read`, `write`), and where the verdict goes (`verdict`).
        given: `before`, what is executed first; `asked`, names of the program's that tests use,
            each of which may be missing until it is used; `tests`, in their order.
    """
    said: dict[str, Any] = {"passed": False, "why": "the tests did not end"}
    try:
        asks = Asking(fds)
        space: dict[str, Any] = {"__name__": "tests"}
        for text in given["before"]:
            exec(compile(text, "tests", "exec"), space)
        for name in given["asked"]:
            space.pop(name, None)
            if name in asks.names:
                space[name] = asks.name(name)
        for text in given["tests"]:
            exec(compile(text, "tests", "exec"), space)
        said = {"passed": True, "why": ""}
    except BaseException as error:
        said["why"] = f"{type(error).__name__}: {error}"[:300]
    os.write(fds["verdict"], json.dumps(said).encode())
