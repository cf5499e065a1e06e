"""The part of a jail that holds a learner's program and does what its tests ask of it."""

from __future__ import annotations

import random
import sys
import types
from typing import Any

from vfunc.language.code_execution.wire import decoded, encoded, received, sent

NAME = "solution"


def run(fds: dict[str, int], given: dict[str, Any]) -> None:
    """Load the program, then answer until nobody asks.

    Args:
        fds: where questions come from (`read`) and answers go to (`write`).
        given: the program's text, as `source`.
    """
    module = types.ModuleType(NAME)
    sys.modules[NAME] = module
    random.seed(0)  # the same draws whenever the program is run
    held: list[Any] = []

    def keep(value: Any) -> int:
        held.append(value)
        return len(held) - 1

    def answer(made: Any, arguments: list[Any] | None = None) -> dict[str, Any]:
        said = {"value": encoded(made, keep)}
        if arguments is not None:  # what the program changed in place
            said["arguments"] = [encoded(one, keep) for one in arguments]
        return said

    try:
        exec(compile(given["source"], NAME, "exec"), module.__dict__)
        sent(fds["write"], {"names": sorted(n for n in vars(module) if isinstance(n, str))})
    except BaseException as error:
        sent(fds["write"], _raised(error))
    while True:
        try:
            asked = received(fds["read"])
        except EOFError:
            return
        try:
            target = vars(module) if asked["target"] is None else held[asked["target"]]
            arguments = [decoded(one, held.__getitem__) for one in asked.get("arguments", ())]
            said = answer(*_done(asked, target, arguments))
        except BaseException as error:
            said = _raised(error)
        try:
            sent(fds["write"], said)
        except Exception as error:
            sent(fds["write"], _raised(error))


def _done(asked: dict[str, Any], target: Any, arguments: list[Any]) -> tuple[Any, Any]:
    do = asked["do"]
    if do == "call":
        names = asked["names"]
        split = len(arguments) - len(names)
        named = dict(zip(names, arguments[split:], strict=True))
        return target(*arguments[:split], **named), arguments
    if do == "name":
        return target[arguments[0]], None
    if do == "attribute":
        return getattr(target, arguments[0]), None
    if do == "set":
        return setattr(target, *arguments), None
    if do == "item":
        return target[arguments[0]], None
    if do == "put":
        target[arguments[0]] = arguments[1]
        return None, None
    simple = {"iterate": iter, "next": next, "length": len, "truth": bool, "text": str}
    return simple[do](target), None


def _raised(error: BaseException) -> dict[str, Any]:
    try:
        return {"raised": type(error).__name__, "text": str(error)[:300]}
    except BaseException:
        return {"raised": "RuntimeError", "text": ""}
