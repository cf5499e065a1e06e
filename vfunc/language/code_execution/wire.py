"""Plain data as bytes between a learner's program and its tests.

Whatever a program sends, what comes out here is plain data or the number of an object that stays
where it is: never an object with methods of its own, which could say that it equals anything.
"""

from __future__ import annotations

import builtins
import json
import os
import struct
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

LONGEST = 2**24
"""Bytes of a message, at most."""
_PLAIN_INTEGER = 2**53


class WireError(Exception):
    """Something that cannot be sent, or makes no sense."""


def encoded(value: Any, handle: Callable[[Any], int | None]) -> Any:
    """A value as JSON has it.

    Args:
        value: plain data, or an object.
        handle: the number of an object that stays here; None refuses it.
    """
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if isinstance(value, bool | int):
        number = int(value)
        return number if abs(number) < _PLAIN_INTEGER else ["i", hex(number)]
    if isinstance(value, float):
        return ["x", float(value).hex()]
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, complex):
        return ["c", value.real.hex(), value.imag.hex()]
    if isinstance(value, bytes | bytearray):
        return ["b", bytes(value).hex()]
    if isinstance(value, list | tuple | set | frozenset):
        mark = next(m for m, t in _GROUPS.items() if isinstance(value, t))
        return [mark, *(encoded(one, handle) for one in list(value))]
    if isinstance(value, dict):
        return ["d", *([encoded(k, handle), encoded(v, handle)] for k, v in list(value.items()))]
    if kind is range:
        return ["r", value.start, value.stop, value.step]
    if isinstance(value, Fraction):
        return ["q", hex(value.numerator), hex(value.denominator)]
    if isinstance(value, Decimal):
        return ["D", str(value)]
    if kind is type and getattr(builtins, value.__name__, None) is value:
        return ["T", value.__name__]
    number = handle(value)
    if number is None:
        raise WireError(f"{kind.__name__} cannot be passed on")
    return ["h", number]


_GROUPS: dict[str, type] = {"l": list, "t": tuple, "s": set, "f": frozenset}


def decoded(value: Any, held: Callable[[int], Any]) -> Any:
    """What `encoded` made of a value.

    Args:
        value: of JSON.
        held: the object of a number.
    """
    if not isinstance(value, list):
        return value
    mark, *rest = value
    if mark in _GROUPS:
        return _GROUPS[mark](decoded(one, held) for one in rest)
    if mark == "d":
        return {decoded(k, held): decoded(v, held) for k, v in rest}
    if mark == "i":
        return int(rest[0], 16)
    if mark == "x":
        return float.fromhex(rest[0])
    if mark == "c":
        return complex(float.fromhex(rest[0]), float.fromhex(rest[1]))
    if mark == "b":
        return bytes.fromhex(rest[0])
    if mark == "r":
        return range(*rest)
    if mark == "q":
        return Fraction(int(rest[0], 16), int(rest[1], 16))
    if mark == "D":
        return Decimal(rest[0])
    if mark == "T":
        found = getattr(builtins, str(rest[0]))
        return found if type(found) is type else None
    if mark == "h":
        return held(int(rest[0]))
    raise WireError("a message that makes no sense")


def sent(fd: int, message: Any) -> None:
    """Write a message, whole."""
    body = json.dumps(message).encode()
    if len(body) > LONGEST:
        raise WireError("a value too large to pass on")
    data = memoryview(struct.pack("=I", len(body)) + body)
    while data:
        data = data[os.write(fd, data) :]


def received(fd: int) -> Any:
    """Read a message, whole; EOFError where there is no more."""
    (length,) = struct.unpack("=I", _exactly(fd, 4))
    if length > LONGEST:
        raise WireError("a value too large to pass on")
    return json.loads(_exactly(fd, length))


def _exactly(fd: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(fd, min(count, 2**20))
        if not part:
            raise EOFError("the program has ended")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
