"""`--retrieval`: mAP of the frozen encoder on a benchmark in revisitop's layout, at the end of a run."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image
from small_vision_run import parts_of

from vfunc.errors import UserError


def benchmark(folder, kinds=3, copies=3):
    """Pictures of one colour each: a query's positives are those of its colour."""
    draw = np.random.default_rng(0)
    colours = draw.integers(0, 256, (kinds, 3))
    (folder / "jpg").mkdir(parents=True)

    def written(name, colour):
        noise = draw.integers(-3, 4, (40, 48, 3))
        pixels = np.clip(colours[colour] + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "jpg" / f"{name}.jpg", quality=95)
        return name

    database = [written(f"d{k}_{i}", k) for k in range(kinds) for i in range(copies)]
    queries = [written(f"q{k}", k) for k in range(kinds)]
    truth = [
        {
            "bbx": [0.0, 0.0, 48.0, 40.0],
            "easy": [k * copies + i for i in range(copies - 1)],
            "hard": [k * copies + copies - 1],
            "junk": [],
        }
        for k in range(kinds)
    ]
    known = {"imlist": database, "qimlist": queries, "gnd": truth}
    (folder / "gnd_tiny.pkl").write_bytes(pickle.dumps(known))
    return folder


def test_retrieval_is_measured_at_the_end_alone(tmp_path):
    parts = parts_of(retrieval=str(benchmark(tmp_path / "tiny")))
    early = parts.workload.evaluate(parts.learner, final=False).metrics
    assert not any(name.startswith("retrieval") for name in early)
    final = parts.workload.evaluate(parts.learner, final=True).metrics
    found = {name: x for name, x in final.items() if name.startswith("retrieval")}
    assert set(found) == {"retrieval_easy", "retrieval_medium", "retrieval_hard"}
    assert found["retrieval_medium"] > 0.9  # colours are easy to tell apart, even for random blocks
    assert "retrieval_medium" in [metric.name for metric in parts.reporting.metrics]
    assert parts.reporting.metrics[-1].name == "miou"


def test_a_folder_that_is_no_benchmark(tmp_path):
    with pytest.raises(UserError, match="gnd_"):
        parts_of(retrieval=str(tmp_path))
