"""What an installation without extras lacks is said in one line; with one extra, that one works."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vfunc
from vfunc.errors import UserError
from vfunc.extras import EXTRAS, MissingExtraError, needs

ROOT = Path(vfunc.__file__).parent
PYPROJECT = ROOT.parent / "pyproject.toml"
IMPORTED_AS = {"pillow": "PIL", "scikit-learn": "sklearn"}
CORE = {"torch", "numpy", "jaxtyping", "beartype", "rich"}
# a missing peer is a row of a table, see tests/studies/test_peers_bench.py; a tracker and what reads
# GGUF are needed where they are asked for
OPTIONAL = ("peers", "gguf", "lm-eval", "trl", "decontaminate", "tensorboard", "wandb", "trackio")
NEEDED = [names for extra, names in EXTRAS.items() if extra not in OPTIONAL]
# matplotlib brings pillow
MODULES = sorted({name for names in NEEDED for name in names} - {"PIL"})
FILES = sorted([*ROOT.rglob("*.py"), *(ROOT.parent / "experiments").glob("*.py")])
SCRIPT = Path(__file__).with_name("without_extras.py")
PARTS = {"language": "language", "vision": "vision", "training": "run"}
SMALL = ["--device", "cpu", "--threads", "1", "--dry-run", "--stream-size", "16", "--batch-size", "2",
         "--feedback-size", "8", "--feedback-batch-size", "3", "--eval-size", "4"]  # fmt: skip
SMALL_VISION = ["--modality", "vision", *SMALL, "--heads-size", "8", "--fit-size", "5",
                "--meta-batch-size", "2", "--head-size", "4", "--head-steps", "4"]  # fmt: skip


def modules_of(requirements):
    names = (re.split(r"[\[>=<]", line)[0] for line in requirements)
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names if name != "vfunc"}


@pytest.mark.skipif(not PYPROJECT.is_file(), reason="there is no pyproject.toml: a wheel is tested")
def test_the_extras_are_those_of_the_installation():
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    assert modules_of(project["dependencies"]) == CORE
    extras = project["optional-dependencies"]
    assert {name: modules_of(extras[name]) for name in EXTRAS} == {
        name: set(modules) for name, modules in EXTRAS.items()
    }
    assert "vfunc[language,vision]" in extras["run"] and "vfunc[run,docs]" in extras["dev"]


def imports_and_checks(path):
    """The top-level modules that a file imports, lazily or not; the modules that it checks for."""
    imported, checked = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "needs":
            extra, *modules = (argument.value for argument in node.args)
            assert set(modules) <= set(EXTRAS[extra]), path
            checked |= set(modules or EXTRAS[extra])
    return imported, checked


def test_what_an_extra_brings_is_looked_for_before_it_is_imported():
    found = {path: imports_and_checks(path) for path in FILES}
    # pyarrow comes with datasets; what reads parquet says so itself where it is missing
    own = {"vfunc", "pyarrow", *sys.stdlib_module_names}
    unchecked = {}
    for path, (imported, checked) in found.items():
        heads = [p / "__init__.py" for p in path.parents if ROOT in p.parents]
        checked = checked.union(*(found[head][1] for head in heads if head in found))
        if missed := imported - own - CORE - checked:
            unchecked[str(path.relative_to(ROOT.parent))] = missed
    assert unchecked == {}


def test_an_error_names_module_and_extra():
    needs("run", "json")
    with pytest.raises(MissingExtraError) as caught:
        needs("vision", "json", "absent_module")
    assert str(caught.value) == "this needs absent_module: pip install 'vfunc[vision]'"
    assert caught.value.name == "absent_module"
    assert isinstance(caught.value, UserError) and isinstance(caught.value, ImportError)


def outcomes(*jobs):
    """Exit code and standard error of commands, each with some modules hidden."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(jobs)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def without_one():
    """What happens where one module is missing: a command that needs it, and the Python API."""
    commands = {
        "run": (["run", "--help"], ["compare", "--help"], ["bench", "--help"]),
        "language": (["run"], ["compare", "--seeds", "0"], ["bench"]),
        "vision": (["run", "--modality", "vision"], ["compare", "--modality", "vision"]),
    }
    jobs, seen = {}, set()
    for i, module in enumerate(MODULES):
        extra = next(e for e in ("run", "language", "vision") if module in EXTRAS[e])
        several = commands[extra]
        jobs[module] = {"hide": [module], "command": [*several[i % len(several)], "--dry-run"]}
        if extra in seen:  # that other parts are there costs their imports: once an extra
            jobs[module]["parts"] = [p for p, e in PARTS.items() if module in EXTRAS[e]]
        seen.add(extra)
    return dict(zip(jobs, outcomes(*jobs.values()), strict=True))


@pytest.mark.parametrize("module", MODULES)
def test_a_missing_module_is_one_line_that_names_its_extra(without_one, module):
    found = without_one[module]
    lines = [f"this needs {module}: pip install 'vfunc[{e}]'" for e in EXTRAS]
    line = found["stderr"].removeprefix("error: ").strip()
    assert found["code"] == 2 and found["stderr"].startswith("error: ")
    assert line in lines and re.search(r"\[(\w+)\]", line).group(1) in {
        extra for extra, modules in EXTRAS.items() if module in modules
    }
    assert found["parts"].keys() >= {p for p, extra in PARTS.items() if module in EXTRAS[extra]}
    for part, said in found["parts"].items():
        extra = PARTS[part]
        assert said == (lines[list(EXTRAS).index(extra)] if module in EXTRAS[extra] else "")


def test_one_extra_is_enough_for_its_modality_and_none_for_the_core():
    language, vision, run = (set(EXTRAS[name]) for name in ("language", "vision", "run"))
    runs = [
        {"hide": sorted(vision - language - run - {"PIL"}), "command": ["run", *SMALL]},
        {
            "hide": sorted(language - vision - run),
            "command": ["run", *SMALL_VISION],
        },
        {"hide": [*MODULES, "PIL"], "readme": True},
    ]
    for job, found in zip(runs, outcomes(*runs), strict=True):
        assert (found["code"], found["stderr"]) == (0, ""), job


def test_help_waits_for_no_slow_library():
    commands = (["run"], ["run", "--modality", "vision"], ["compare"], ["bench"])
    for found in outcomes(*({"hide": [], "command": [*words, "--help"]} for words in commands)):
        assert found["code"] == 0
        # tqdm comes with torch, and the other two are quick
        assert set(found["loaded"]) <= {"tyro", "tqdm", "tomli_w", "einops", "safetensors"}
