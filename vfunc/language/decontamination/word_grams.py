"""Cuts texts into n-grams of words, in which case, punctuation, spaces and numbers do not count.

Where a script puts no spaces between words, as Chinese and Japanese do, every letter counts as one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u3040-\u30ff"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"  # Chinese characters
)
"""Scripts that put no spaces between words: there a letter is a word."""
_WORD = re.compile(rf"\d+(?:[.,]\d+)*|(?=[^\W\d_])[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+")
NUMBER = "0"
"""What every number becomes."""

Gram = tuple[str, ...]


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, numbers all alike; letters of `_UNSPACED` one by one."""
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
