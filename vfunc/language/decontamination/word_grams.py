"""Cuts texts into n-grams of words, in which case, punctuation, spaces and numbers do not count."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
NUMBER = "0"
"""What every number becomes."""

Gram = tuple[str, ...]


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, numbers all alike."""
    plain = unicodedata.normalize("NFKC", text).lower()
    return [NUMBER if word[0].isdigit() else word for word in _WORD.findall(plain)]


def grams_of(words: Sequence[str], n: int) -> list[Gram]:
    """The n-grams of words, in order; of fewer words there are none."""
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def window_length(length: int) -> int:
    """Grams of a window in which any `length` may lie, see `windows`."""
    return length + _stride(length)


def _stride(length: int) -> int:
    return max(length // 2, 1)


def windows(count: int, length: int) -> Iterator[tuple[int, int]]:
    """Half-open stretches of so many grams that overlap: any `length` lie whole in one of them."""
    stride = _stride(length)
    for start in range(0, max(count - length, 0) + stride, stride):
        yield start, min(start + length + stride, count)
        if start + length + stride >= count:
            return
