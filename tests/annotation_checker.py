"""What the import hook of the tests checks annotations with."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

# by default beartype draws from Python's global random state, which tests of purity would see
check = beartype(conf=BeartypeConf(is_random=False))
