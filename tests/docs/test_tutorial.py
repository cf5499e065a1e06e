"""docs/tutorial.md runs as it is printed there, and ends with the plot that the page shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

DOCUMENT = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)

pytestmark = pytest.mark.skipif(not DOCUMENT.is_file(), reason="there is no docs/ beside the tests")


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    """The names that the tutorial's script leaves, and the folder that it ran in."""
    pytest.importorskip("matplotlib").use("Agg")
    folder = tmp_path_factory.mktemp("tutorial")
    names = {"__name__": "tutorial"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for code in BLOCK.findall(DOCUMENT.read_text(encoding="utf-8")):
            exec(compile(code, str(DOCUMENT), "exec"), names)
    return names, folder


def test_it_ends_with_the_plot_that_the_page_shows(tutorial):
    import matplotlib.image

    _, folder = tutorial
    drawn = matplotlib.image.imread(folder / "tutorial.png")
    shown = matplotlib.image.imread(DOCUMENT.parent / "tutorial.png")
    assert drawn.shape == shown.shape
    # the curves are the same but for rounding, which differs from machine to machine
    assert (abs(drawn - shown) > 0.1).mean() < 0.02


def test_its_designer_finds_what_matters(tutorial):
    names, _ = tutorial
    weights = names["weights"][-1]
    assert weights[:2].min() > 1 > weights[2:].max()
    assert float(names["error"](names["f"].theta, names["held_out"])) == pytest.approx(
        0.019, abs=5e-3
    )


def test_what_it_predicts_is_what_happens(tutorial):
    names, _ = tutorial
    pairs = torch.tensor([names["predicted"], names["realised"], names["elsewhere"]])
    correlation = torch.corrcoef(pairs)[0]
    assert correlation[1] > 0.999 and correlation[2] > 0.98
