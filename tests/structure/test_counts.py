"""One name, one thing: a file's name tells which file it is."""

from __future__ import annotations

from collections import Counter

from counts import BY_MODALITY, FILES


def test_a_file_name_occurs_once_but_for_those_that_each_modality_has():
    names = Counter(path.name for path in FILES)
    assert [n for n, count in names.items() if count > 1 and n not in BY_MODALITY] == []
