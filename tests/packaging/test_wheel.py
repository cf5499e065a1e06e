"""The wheel, installed elsewhere, runs the main job with its own presets and embedded learners."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import vfunc

ROOT = Path(vfunc.__file__).resolve().parents[1]
SMALL = ["--budget", "1steps", "--eval-size", "2", "--probe-batches", "0", "--threads", "1",
         "--device", "cpu", "--no-certify"]  # fmt: skip

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(), reason="there is no pyproject.toml to build a wheel by"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: nothing that an earlier build has left gets into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "vfunc", source / "vfunc", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, source)
    return next(folder.glob("vfunc-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel, and read access to the packages of this one."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    pip("--python", python, "install", "--no-deps", "--no-index", wheel)
    # after the installation, which would otherwise find this environment's vfunc; and a path in a
    # .pth file comes after the environment's own, and its own .pth files (an editable vfunc) do not
    # count
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return environment


def pip(*words):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def in_the_environment(installed, folder, program, *words):
    left_out = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {k: v for k, v in os.environ.items() if k not in left_out}
    command = [str(installed / "bin" / program), *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_every_file_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("vfunc/")}
        there = {
            path.relative_to(ROOT).as_posix(): path
            for path in (ROOT / "vfunc").rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        assert held == set(there)
        for name, path in there.items():
            assert archive.read(name) == path.read_bytes(), name
    for part in ("language/embedded", "vision/encoder/embedded"):
        assert f"vfunc/{part}/model.safetensors" in held
    assert {"vfunc/presets/quick.toml", "vfunc/presets/paper/ade20k_vit_b.toml"} <= held


def test_a_job_of_one_step_runs_outside_the_repository(installed, tmp_path):
    done = in_the_environment(
        installed, tmp_path, "vfunc", "run", "--preset", "quick", "--name", "one", *SMALL
    )
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stdout + done.stderr
    run = tmp_path / "runs" / "one"
    for name in ("config.toml", "events.jsonl", "table.md", "plots/learning_curves.png"):
        assert (run / name).stat().st_size > 0, name
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["git_commit"] is None and metrics["versions"]["vfunc"]
    assert {name: arm["steps"] for name, arm in metrics["arms"].items()} == {
        "baseline": 1, "vpretraining": 1,
    }  # fmt: skip
    assert str(ROOT) not in done.stdout + (run / "config.toml").read_text(encoding="utf-8")


def test_presets_are_those_of_the_wheel(installed, tmp_path):
    done = in_the_environment(installed, tmp_path, "vfunc", "run", "--preset", "paper/ade20k_vit")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean paper/ade20k_vit_" in done.stderr
    assert f"in {installed}" in done.stderr and str(ROOT) not in done.stderr


def test_the_package_is_the_wheels_and_so_is_its_version(installed, wheel, tmp_path):
    where = "import importlib.util; print(importlib.util.find_spec('vfunc').origin)"
    done = in_the_environment(installed, tmp_path, "python", "-c", where)
    assert done.stdout.startswith(str(installed)), done.stderr
    done = in_the_environment(installed, tmp_path, "vfunc", "--version")
    assert done.returncode == 0, done.stderr
    assert f"-{done.stdout.split()[1]}-" in wheel.name
