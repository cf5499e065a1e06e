"""Objects that a right problem may reach, and that raise where they are looked at."""

from __future__ import annotations

import random

import torch
from torch import nn


class Raising(dict):
    """A mapping without a length."""

    def __len__(self):
        raise RuntimeError("no length")

    def __iter__(self):
        raise RuntimeError("no entries")

    values = items = __iter__


class Unbound:
    """A proxy of nothing yet."""

    def __getattribute__(self, name):
        raise RuntimeError("not bound")


class Slot:
    """A slot that is not set."""

    __slots__ = ("a",)

    def __getattr__(self, name):
        raise RuntimeError(name)


class Silent:
    """A key that cannot be shown."""

    __hash__ = object.__hash__

    def __repr__(self):
        raise RuntimeError("no words")


class Uneven(float):
    """A number that cannot be compared."""

    __hash__ = float.__hash__

    def __eq__(self, other):
        raise RuntimeError("not comparable")


class Kind(type):
    """Of a class without a name."""

    @property
    def __name__(cls):
        raise RuntimeError("no name")


class Nameless(metaclass=Kind):
    """That class."""


class Own(torch.Tensor):
    """A tensor that no function of torch may touch."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError("mine")


def odd_objects():
    """By what they are."""
    with torch.random.fork_rng():
        lazy = nn.LazyLinear(3)
    return {
        "the system's randomness": random.SystemRandom(),
        "a buffer without a shape": nn.parameter.UninitializedBuffer(),
        "a layer without a shape": lazy,
        "a tensor of its own kind": torch.ones(2).as_subclass(Own),
        "a meta tensor": torch.ones(2, device="meta"),
        "a mapping that raises": Raising(a=1),
        "a proxy that raises": Unbound(),
        "a slot that is not set": Slot(),
        "a key without words": {Silent(): 1},
        "a number that is not compared": Uneven(1.0),
        "a class without a name": Nameless,
        "a million numbers": list(range(1_000_000)),
    }
