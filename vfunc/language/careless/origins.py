"""Where a number of a solution comes from: the question, or an earlier result of the same value.

Equal numbers may have different origins: 72/4 = 18 stamps more make 18 + 18 where there were 18
before. A number is taken for a result where that alone is likely: nothing else has its value or
its unit, or there is no other use for the result, which an author would not have worked out for
nothing. What stays in doubt is a reason to leave a solution as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from vfunc.language.careless.solutions import NotTreated

DOUBT = "a number that may come from two places"


@dataclass
class Origin:
    """A place that a value comes from.

    Attributes:
        becomes: what is written in its stead.
        unit: the word after it there, or "$".
        given: whether it is the question's.
        used: whether a calculation has used it.
    """

    becomes: Fraction
    unit: str
    given: bool
    used: bool = False


@dataclass
class Origins:
    """The origins of the numbers so far, by value."""

    known: dict[Fraction, list[Origin]] = field(default_factory=dict)
    last: Fraction | None = None

    def add(self, value: Fraction, origin: Origin) -> None:
        """Note where a value comes from."""
        self.known.setdefault(value, []).append(origin)
        self.last = value

    def _latest(self, value: Fraction) -> Origin | None:
        """The latest origin, where others of its value have had their use.

        Of several results it is taken for the one that is meant; of a result and a number of the
        question only where no other result has come after it.
        """
        *before, latest = self.known.get(value) or [None]
        if latest is None or latest.given or not all(o is not None and o.used for o in before):
            return None
        alone = not any(o is not None and o.given for o in before)
        return latest if alone or value == self.last else None

    def is_result(self, value: Fraction) -> bool:
        """Whether some result had this value."""
        return any(not origin.given for origin in self.known.get(value, ()))

    def told(self, value: Fraction, unit: str) -> Fraction:
        """What a number in prose becomes.

        Args:
            value: its value.
            unit: the word after it, or "$".

        Raises:
            NotTreated: it may come from two places.
        """
        origins = self.known.get(value, [])
        alike = [origin for origin in origins if unit and origin.unit == unit]
        chosen = _one(origins) or _one(alike) or self._latest(value)
        if chosen is None and origins:
            raise NotTreated(DOUBT)
        return value if chosen is None else chosen.becomes

    def used(self, value: Fraction, unit: str, here: int, later: int) -> Fraction:
        """What a number that is calculated with becomes.

        Args:
            value: its value.
            unit: the word after it, or "$".
            here: how often its calculation uses the value from here on, this time included.
            later: how often later calculations do.

        Raises:
            NotTreated: it may come from two places.
        """
        origins = self.known.get(value, [])
        if not origins:
            return value
        chosen = _one(origins) or _one([o for o in origins if unit and o.unit == unit])
        if chosen is None:
            fresh = [origin for origin in origins if not origin.used]
            results = [origin for origin in fresh if not origin.given]
            if here + later <= len(results) and len(results) == 1:
                chosen = results[0]
            elif here == len(fresh):
                chosen = fresh[0]
            elif not later and here == len(results):
                chosen = results[0]
            else:
                chosen = self._latest(value)
        if chosen is None:
            raise NotTreated(DOUBT)
        chosen.used = True
        return chosen.becomes


def _one(origins: Sequence[Origin]) -> Origin | None:
    """The first that is not used, of origins that all become the same."""
    if len({origin.becomes for origin in origins}) != 1:
        return None
    return next((origin for origin in origins if not origin.used), origins[0])
