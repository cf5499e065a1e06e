"""The README's example of the core runs as printed there, and finds the features that matter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.skipif(not README.is_file(), reason="there is no README.md beside the tests")
def test_the_readmes_example_finds_the_features_that_matter(capsys):
    text = README.read_text(encoding="utf-8")
    block = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block is not None, "README.md shows no ```python block"
    code = block.group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 35
    exec(compile(code, str(README), "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out.splitlines()[-3:]
    weights = [float(x) for x in re.findall(r"-?\d+\.\d*(?:e[+-]?\d+)?", " ".join(printed))]
    assert len(weights) == 8 and sum(weights) == pytest.approx(8, abs=0.01)
    assert min(weights[:2]) > 1 > max(weights[2:])
