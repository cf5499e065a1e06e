"""docs/tutorial.md runs as it is printed there, and ends with the plot that the page shows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="there is no docs/ beside the tests")


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    """The names that the tutorial's script leaves, and the folder that it ran in."""
    path = DOCS / "site" / "run_tutorial.py"
    spec = importlib.util.spec_from_file_location("run_tutorial", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("tutorial")
    return module.run_tutorial(folder), folder


def test_it_ends_with_the_plot_that_the_page_shows(tutorial):
    import matplotlib.image

    _, folder = tutorial
    drawn = matplotlib.image.imread(folder / "tutorial.png")
    shown = matplotlib.image.imread(DOCS / "tutorial.png")
    assert drawn.shape == shown.shape
    # the curves are the same but for rounding, which differs from machine to machine
    assert (abs(drawn - shown) > 0.1).mean() < 0.02


def test_its_designer_finds_what_matters(tutorial):
    names, _ = tutorial
    weights = names["weights"][-1]
    assert weights[:2].min() > 1 > weights[2:].max()
    assert float(names["error"](names["f"].theta, names["held_out"])) == pytest.approx(
        0.029, abs=5e-3
    )


def test_what_it_predicts_is_what_happens(tutorial):
    names, _ = tutorial
    pairs = torch.tensor([names["predicted"], names["realised"], names["elsewhere"]])
    correlation = torch.corrcoef(pairs)[0]
    assert correlation[1] > 0.999 and correlation[2] > 0.98
