"""Results name what made them, wherever the package is installed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import torch

from vfunc.training import provenance


def test_outside_a_checkout_there_is_no_commit(monkeypatch, tmp_path):
    if Path(provenance.__file__).parents[2].joinpath(".git").exists():
        assert provenance.git_commit()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "vfunc/training/provenance.py"))
    assert provenance.git_commit() is None


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    def version(name):
        if name in ("peft", "datasets"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = provenance.provenance(torch.device("cpu"))["versions"]
    assert set(found) == {"python", *provenance.PACKAGES} - {"peft", "datasets"}
