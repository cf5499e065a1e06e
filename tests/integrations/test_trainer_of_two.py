"""Two processes of `accelerate launch` that share every batch train as one with all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_run import shallow  # noqa: F401  a fixture
from trainer_of_two import doubled, trained

HERE = Path(__file__).parent
LAUNCH = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no",
          "--dynamo_backend=no", "--num_cpu_threads_per_process=1", "--main_process_port=0"]  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes found."""
    output = tmp_path_factory.mktemp("two") / "found.pt"
    script = HERE / "trainer_of_two.py"
    paths = (HERE.parents[1], HERE.parent, HERE.parent / "training", HERE)
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, str(script), str(output)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(f"{output}.{rank}") for rank in (0, 1)]


@pytest.mark.usefixtures("shallow")
def test_two_processes_are_one_with_the_batch_of_both(two, tmp_path):
    one = trained(doubled(tmp_path, 4))
    for found in two:
        assert found["processes"] == 2
        for part in ("learner", "designer"):
            far = {n: (found[part][n] - x).abs().max() for n, x in one[part].items()}
            assert all(x < 1e-12 * (1 + one[part][n].abs().max()) for n, x in far.items())
        assert found["values"] == pytest.approx(one["values"], rel=1e-9)


def test_two_processes_resume_bit_for_bit(two):
    assert [found["resumed"] for found in two] == [True, True]
