"""Workers, threads, precision and hypothesis for every test; runtime checks of all annotations."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from importlib import _bootstrap_external
from importlib.machinery import PathFinder, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

# One thread a process, before any library reads it: workers share the cores, and so do the commands
# and notebooks that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# what runs keep for later ones is of these tests alone, and not of the user's
if "VFUNC_CACHE" not in os.environ:
    os.environ["VFUNC_CACHE"] = tempfile.mkdtemp(prefix="vfunc-cache-")
    atexit.register(shutil.rmtree, os.environ["VFUNC_CACHE"], ignore_errors=True)

import annotation_checker
import jaxtyping

# Its constructors answer a wrong choice with a UserError that lists the choices; a check of the
# Literal in the annotation would come before it.
UNCHECKED = {"vfunc.language.soft_targets.targets"}


def checked_modules() -> list[str]:
    """Names for the import hook: a name covers what is below it, so that no exception is above."""
    root = Path(find_spec("vfunc").origin).parent
    names = {
        ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in root.rglob("*.py")
    }
    return sorted(n for n in names if not any(f"{u}.".startswith(f"{n}.") for u in UNCHECKED))


class CachedLoader(SourceFileLoader):
    """Loads a module of a library from its own compiled file.

    While a module of the package is imported, jaxtyping's hook looks for compiled files of another
    name, for all modules: without this, what the package imports would be compiled again each time.
    """

    where = staticmethod(_bootstrap_external.cache_from_source)

    def get_code(self, fullname):
        with patch.object(_bootstrap_external, "cache_from_source", self.where):
            return super().get_code(fullname)


class CachedFinder:
    """Finds modules of libraries for `CachedLoader`."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = CachedLoader(spec.loader.name, spec.loader.path)
        return spec


# Before anything imports vfunc: the annotations of the package's functions are checked in tests.
jaxtyping.install_import_hook(checked_modules(), "annotation_checker.check")
jaxtyping.jaxtyped = annotation_checker.jaxtyped  # what the hook decorates by
sys.meta_path.insert(sys.meta_path.index(PathFinder), CachedFinder)

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

hypothesis.settings.register_profile(
    "vfunc",
    derandomize=True,
    deadline=None,
    max_examples=3,
    # seeds do not shrink to anything simpler
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    database=None,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        # the precision fixture is the same for every example
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
hypothesis.settings.load_profile("vfunc")

torch.set_num_threads(1)

MOST_WORKERS = 8
"""Each holds the libraries of both modalities, about 1 GB."""


def pytest_xdist_auto_num_workers(config):
    """A worker a core for folders; none for single files and tests, whose start would cost more."""
    if all(Path(argument.partition("::")[0]).is_file() for argument in config.args):
        return 0
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return min(len(allowed(0)) if allowed else os.cpu_count() or 1, MOST_WORKERS)


FIRST = ("theory/", "tests/golden/", "tests/training/test_main_job", "tests/test_extras")
"""Files of few tests that take long: at the end they would keep one worker while others wait."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files that take long come first; workers take files in this order."""
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


def pytest_collection_finish():
    """The libraries' million objects are no garbage: the collector leaves them alone from now on."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_signal_is_ignored():
    """A shell that starts the tests with `nohup`, or in the background, has some ignored."""
    ignored = [s for s in (signal.SIGHUP, signal.SIGTERM) if signal.getsignal(s) == signal.SIG_IGN]
    for one in ignored:
        signal.signal(one, signal.SIG_DFL)
    yield
    for one in ignored:
        signal.signal(one, signal.SIG_IGN)


@pytest.fixture(scope="session", autouse=True)
def _checks_are_no_state():
    """What the checks of annotations count is not taken for a function's own state."""
    from vfunc.problem import kept_state

    with patch.object(kept_state, "CHECKERS", (*kept_state.CHECKERS, "annotation_checker")):
        yield


@pytest.fixture(autouse=True)
def _first_calls_are_checked():
    """Each test has its functions' first calls checked."""
    annotation_checker.calls.clear()


@pytest.fixture(autouse=True)
def _default_precision():
    """No test leaks its default dtype into the next."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def float64():
    """Double precision, where mathematics is tested."""
    torch.set_default_dtype(torch.float64)
