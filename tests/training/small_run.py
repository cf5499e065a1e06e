"""Small runs of the real thing: the embedded learner and problem, a handful of steps.

`train` takes one arm through the loop in memory. Where `shallow` is in use the learner has two of
its blocks: half of the time, and nothing that these tests hold depends on how well it does.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vfunc.config.known import flag
from vfunc.config.layers import Layer
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.workload import LanguageWorkload
from vfunc.training.arm_run import ArmRun
from vfunc.training.assemble import Assembled, assemble
from vfunc.training.build import language_assembly
from vfunc.training.build.configuration import resolve
from vfunc.training.loop import run_arm
from vfunc.training.start import start_arm
from vfunc.training.state import ArmState
from vfunc.workload import Evaluation, Workload

SMALL: dict[str, Any] = {
    "stream_size": 64,
    "feedback_size": 32,
    "eval_size": 4,
    "batch_size": 2,
    "budget": "3steps",
    "eval_every": 0.0,
    "probe_batches": 0,
    "meta_period": 1,
    "threads": 1,
    "device": "cpu",
    "certify": False,  # tests of that are in tests/certification
}
BLOCKS = 2
"""As many as a cut between what is trained and what is below it needs."""


@functools.cache
def shallow_learner() -> str:
    """A directory with the first blocks of the embedded learner."""
    directory = tempfile.mkdtemp(prefix="shallow-learner-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    learner = AutoModelForCausalLM.from_pretrained(EMBEDDED_LEARNER)
    learner.model.layers = learner.model.layers[:BLOCKS]
    learner.config.num_hidden_layers = BLOCKS
    learner.config.layer_types = learner.config.layer_types[:BLOCKS]
    learner.save_pretrained(directory)
    AutoTokenizer.from_pretrained(EMBEDDED_LEARNER).save_pretrained(directory)
    return directory


@pytest.fixture
def shallow(monkeypatch):
    """The embedded learner is a shallow one."""
    monkeypatch.setattr(language_assembly, "EMBEDDED_LEARNER", shallow_learner())


@pytest.fixture(scope="session")
def deep():
    """The embedded learner is itself: for runs that another process repeats, and for its answers."""


def cached_assemble(config: Any) -> Assembled:
    """`assemble`, once for each configuration and learner."""
    return _assembled(config, language_assembly.EMBEDDED_LEARNER)


@functools.lru_cache(maxsize=32)
def _assembled(config: Any, learner: Any) -> Assembled:
    return assemble(config)


def words(options: Mapping[str, Any]) -> list[str]:
    """Options as a command line spells them; None leaves one out."""
    found: list[str] = []
    for name, value in options.items():
        if isinstance(value, bool):
            found.append(flag(name) if value else flag(f"no_{name}"))
        elif isinstance(value, tuple):
            found += [flag(name), *map(str, value)]
        elif value is not None:
            found += [flag(name), str(value)]
    return found


@dataclass
class Memory:
    """A log that keeps everything."""

    events: list[dict[str, Any]] = field(default_factory=list)
    saved: list[int] = field(default_factory=list)
    on_event: Callable[[str, Any], None] = lambda kind, fields: None

    def event(self, kind, fields):
        self.events.append({"kind": kind, **fields})
        self.on_event(kind, fields)

    def progress(self, fraction, fields):
        assert 0 <= fraction <= 1

    def checkpoint(self, state):
        self.saved.append(state.counters.step)


@dataclass
class Trained:
    """An arm after its training."""

    state: ArmState
    evaluation: Evaluation
    log: Memory

    @property
    def theta(self):
        return dict(self.state.learner.named_parameters())

    @property
    def phi(self):
        return dict(self.state.designer.named_parameters())

    def of(self, key, kind="step"):
        return [e[key] for e in self.log.events if e["kind"] == kind and key in e]


def small(**options):
    """The configuration of a small run; options that `options` make useless give way."""
    return resolve(Layer(SMALL), Layer(options))


def parts_of(config):
    """Learner, data and workload; without Pass@1, whose generation takes the most time."""
    parts = cached_assemble(config)
    data = dataclasses.replace(parts.workload.data, problems=())
    return with_workload(parts, dataclasses.replace(parts.workload, data=data))


def with_workload(parts: Assembled, workload: Workload) -> Assembled:
    """The same parts with another side for the loop."""
    modality = dataclasses.replace(parts.modality, workload=workload)
    return dataclasses.replace(parts, modality=modality)


def new_run(arm: str = "vpretraining", **options: Any) -> ArmRun:
    """One arm at its start, with a log that keeps everything."""
    arms = dict.fromkeys(("baseline", "vpretraining", arm))  # the data do not depend on the arm
    return start_arm(arm, parts_of(small(**{"arms": tuple(arms)} | options)), Memory())


def train(
    arm: str = "vpretraining",
    change: Callable[[LanguageWorkload], Any] = lambda workload: workload,
    log: Memory | None = None,
    **options: Any,
) -> Trained:
    """Train one arm in memory; `change` may replace its workload."""
    run = new_run(arm, **options)
    log = log or Memory()
    run = dataclasses.replace(run, workload=change(run.workload), log=log)
    return Trained(run.state, run_arm(run), log)


def same(a, b):
    """Whether two dicts of tensors are equal bit for bit."""
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)
