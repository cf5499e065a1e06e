"""Makes installed packages look as if they were not, for the process that asks for it."""

from __future__ import annotations

import sys
from typing import Any


class Without:
    """A finder of modules that does not find some.

    A finder that raised would be more than absence: libraries ask `find_spec` what is there.
    """

    def __init__(self, finder: Any, names: frozenset[str]) -> None:
        self._finder, self._names = finder, names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in self._names:
            return None
        return self._finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def hide(*names: str) -> None:
    """Hide packages, by the names that they are imported by, those that are loaded included."""
    hidden = frozenset(names)
    sys.meta_path[:] = [Without(finder, hidden) for finder in sys.meta_path]
    for name in [name for name in sys.modules if name.partition(".")[0] in hidden]:
        del sys.modules[name]
