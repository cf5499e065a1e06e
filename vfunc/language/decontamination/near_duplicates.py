"""Finds test examples in texts: MinHash LSH for candidates, n-gram overlap to confirm.

A test question is short and a document long, so that their Jaccard similarity says little. A text
is therefore looked at in overlapping windows of about a question's length, by size of question, and
two measures are taken of a window and a candidate: Jaccard's, |A & B| / |A | B|, and containment,
the share of the question's n-grams that the window holds (Broder 1997, "On the resemblance and
containment of documents"). A window that shares no n-gram with any question is left out before it
is hashed: neither measure could be above 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.language.decontamination.word_grams import (
    Gram,
    grams_of,
    window_length,
    windows,
    words_of,
)

SMALLEST = 4
"""n-grams that the shortest questions are looked for in."""
GROWTH = 1.5
"""Ratio of the lengths of two sizes of questions."""
ROWS = 2
"""Hashes of a band: few, so that half of a question is a candidate all but surely."""
MISSED = 0.01
"""Chance that a stretch which is just alike enough is no candidate, at most."""
MOST = 100_000
"""Hashes of a MinHash that a user may be told to take."""


@dataclass(frozen=True)
class Measures:
    """How texts are compared.

    Attributes:
        n: words of an n-gram.
        jaccard: similarity of a window from which on it counts as a question's near-duplicate.
        containment: share of a question's n-grams in a window from which on it does.
        least_words: words below which a question is not looked for.
        permutations: hashes of a MinHash.
        seed: seed of the hashes.
    """

    n: int = 5
    jaccard: float = 0.5
    containment: float = 0.6
    least_words: int = 10
    permutations: int = 192
    seed: int = 1

    def require_found(self, longest: float) -> None:
        """Check that what counts is all but surely among the candidates.

        Two sets of similarity J share a band of `ROWS` hashes with a chance of J^ROWS (Broder
        1997). A window that contains a share c of a question, and has r times its n-grams, is of
        similarity c / (1 + r - c).

        Args:
            longest: n-grams of a window over those of the question that it is looked at for, at
                most.

        Raises:
            UserError: too few hashes for that.
        """
        contained = self.containment / (1 + longest - self.containment)
        least_alike = min(self.jaccard, contained)
        of_a_band = math.log1p(-(least_alike**ROWS))  # log of the chance that it differs
        missed = math.exp(self.permutations // ROWS * of_a_band)
        if missed <= MISSED:
            return
        needed = ROWS * math.ceil(math.log(MISSED) / of_a_band) if of_a_band else math.inf
        if needed > MOST:
            raise UserError(
                f"--jaccard {self.jaccard:g} and --containment {self.containment:g} ask for "
                "stretches that hashes do not tell from others: give higher ones"
            )
        raise UserError(
            f"--permutations {self.permutations} would miss {missed:.0%} of the stretches "
            f"that are only just alike enough: give {needed} or more, or a higher --jaccard and "
            "--containment"
        )


@dataclass(frozen=True)
class Found:
    """A question in a text.

    Attributes:
        number: of the question.
        jaccard: similarity of the window that is most like it.
        containment: share of the question's n-grams in it.
    """

    number: int
    jaccard: float
    containment: float


class Questions:
    """Test examples, indexed by their n-grams.

    Attributes:
        short: how many are too short to be looked for.
        looked_at: windows that were hashed.
        candidates: pairs of window and question that were compared.
    """

    def __init__(self, texts: Sequence[str], measures: Measures) -> None:
        """Index texts.

        Args:
            texts: the questions.
            measures: how they are compared.

        Raises:
            UserError: all are too short.
        """
        with needs("decontaminate"):
            from datasketch import MinHashLSH

        self._measures = measures
        least = max(measures.least_words, measures.n)
        self._grams: dict[int, frozenset[Gram]] = {}
        for number, text in enumerate(texts):
            words = words_of(text)
            if len(words) >= least:
                self._grams[number] = frozenset(grams_of(words, measures.n))
        self.short = len(texts) - len(self._grams)
        self.looked_at = self.candidates = 0
        if not self._grams:
            raise UserError(
                f"all {len(texts)} examples of --against have fewer than {least} words; lower "
                "--min-words and --ngram"
            )
        counts = {max(len(grams), SMALLEST) for grams in self._grams.values()}
        measures.require_found(max(window_length(_size(n)) / n for n in counts))
        self._every = frozenset().union(*self._grams.values())
        bands = (measures.permutations // ROWS, ROWS)
        self._sizes: dict[int, Any] = {}
        for number, grams in self._grams.items():
            size = _size(len(grams))
            if size not in self._sizes:
                self._sizes[size] = MinHashLSH(num_perm=measures.permutations, params=bands)
            self._sizes[size].insert(number, self._hashed(grams))

    def found_in(self, text: str) -> list[Found]:
        """The questions that a text holds, or nearly, by their numbers."""
        measures, best = self._measures, dict[int, Found]()
        grams = grams_of(words_of(text), measures.n)
        known = [at for at, gram in enumerate(grams) if gram in self._every]
        if not known:
            return []
        for size, index in self._sizes.items():
            for start, end in windows(len(grams), size):
                window = frozenset(grams[start:end])
                if window.isdisjoint(self._every):
                    continue
                self.looked_at += 1
                for number in index.query(self._hashed(window)):
                    self.candidates += 1
                    found = _compared(number, self._grams[number], window)
                    before = best.get(number)
                    if before is None or _rank(found) > _rank(before):
                        best[number] = found
        near = (f for f in best.values() if self._near(f))
        return sorted(near, key=lambda found: found.number)

    def found_between(self, text: str, behind: str) -> list[Found]:
        """The questions across the border of a text and what goes on with it.

        Args:
            text: one that holds no question by itself.
            behind: what goes on with it; questions that it holds by itself are left out.
        """
        if not behind:
            return []
        # all that a window across the border can hold
        reach = window_length(max(self._sizes)) + self._measures.n - 1
        across = _edge(text, reach, end=True) + _edge(behind, reach, end=False)
        found = self.found_in(across)
        if not found:
            return []
        there = {one.number for one in self.found_in(behind)}
        return [one for one in found if one.number not in there]

    def _near(self, found: Found) -> bool:
        measures = self._measures
        return found.jaccard >= measures.jaccard or found.containment >= measures.containment

    def _hashed(self, grams: frozenset[Gram]) -> Any:
        from datasketch import MinHash

        made = MinHash(num_perm=self._measures.permutations, seed=self._measures.seed)
        made.update_batch([" ".join(gram).encode() for gram in sorted(grams)])
        return made


def _edge(text: str, count: int, *, end: bool) -> str:
    """The beginning or the end of a text, with so many whole words where there are so many."""
    length = 8 * count
    while True:
        part = text[-length:] if end else text[:length]
        if length >= len(text) or len(words_of(part)) > count:
            return part
        length *= 2


def _size(count: int) -> int:
    """The length of windows that questions of so many n-grams are looked for in."""
    size = float(SMALLEST)
    while size < count:
        size *= GROWTH
    return int(size)


def _compared(number: int, question: frozenset[Gram], window: frozenset[Gram]) -> Found:
    shared = len(question & window)
    return Found(number, shared / len(question | window), shared / len(question))


def _rank(found: Found) -> tuple[float, float]:
    return found.containment, found.jaccard
