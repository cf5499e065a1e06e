"""Resolves every option of a run: the value given, or else its default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vfunc.config.declared import Options, default_value
from vfunc.config.known import Catalogue


class ResolvedOptions(Mapping[str, Any]):
    """Every option's value: the one given, else its default, computed on demand.

    Attributes:
        catalogue: all options.
        given: values of the options given.
    """

    def __init__(self, catalogue: Catalogue, given: Options) -> None:
        self.catalogue = catalogue
        self.given = dict(given)
        self._found: dict[str, Any] = {}
        self._waiting: list[str] = []

    def __getitem__(self, name: str) -> Any:
        if name in self.given:
            return self.given[name]
        if name in self._waiting:
            ring = [*self._waiting[self._waiting.index(name) :], name]
            raise RuntimeError(f"defaults that wait for each other: {' -> '.join(ring)}")
        if name not in self._found:
            self._waiting.append(name)
            try:
                self._found[name] = default_value(self.catalogue[name].default, self)
            finally:
                self._waiting.pop()
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.catalogue)

    def __len__(self) -> int:
        return len(self.catalogue)

    def useless(self) -> dict[str, str]:
        """Which of the given options do nothing, and why."""
        reasons = {name: self.catalogue[name].useless(self) for name in self.given}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def flat(self) -> dict[str, Any]:
        """All values by name.

        Those of a variant that users may name themselves (an estimator) are None unless they were
        given: the variants that were not chosen have them too.
        """
        return {
            name: self.given.get(name) if known.opened else self[name]
            for name, known in self.catalogue.items()
        }
