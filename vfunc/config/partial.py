"""Holds a component as it is configured, until the run knows the rest of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Partial(Generic[T]):
    """A component whose options are known and whose hidden fields are not.

    Attributes:
        make: its class.
        options: its fields that options give, by name.
    """

    make: Callable[..., T]
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, **rest: Any) -> T:
        """The component, from its options and the rest of its fields."""
        return self.make(**dict(self.options), **rest)

    def __getitem__(self, field: str) -> Any:
        """A field that an option gives."""
        return dict(self.options)[field]
