"""An arm that one process's signal stops, and that both go on with."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import torch
from small_run import SMALL

import vfunc
from vfunc.config.layers import Layer
from vfunc.sharding import gathered
from vfunc.training.arm_run import ArmRun
from vfunc.training.assemble import assemble
from vfunc.training.build.configuration import resolve
from vfunc.training.checkpoint import load_newest, random_state, save_checkpoint
from vfunc.training.interrupt import Interrupted
from vfunc.training.log import Following, Silent
from vfunc.training.loop import run_arm
from vfunc.training.start import start_arm


class Kept(Silent):
    """The first process's log: checkpoints alone, as `RunLog` writes them."""

    def __init__(self, path: Path, processes: vfunc.Processes) -> None:
        self.path, self.processes = path, processes

    def checkpoint(self, state):
        _, *others = self.processes.every(random_state(state))
        save_checkpoint(state, self.path, {}, others)


class Drawing(Following):
    """The second's; at its second step it gets a signal, of which the first knows nothing."""

    def __init__(self, processes: vfunc.Processes, stopping: bool) -> None:
        super().__init__(processes)
        self.stopping = stopping

    def progress(self, fraction, fields):
        if self.stopping and fields["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def new_arm(processes: vfunc.Processes, path: Path, more: dict, *, stopping: bool) -> ArmRun:
    """An arm of four steps, whose learner's steps draw on the random state of its process."""
    options = SMALL | {"arms": ("vpretraining",), "budget": "4steps", "save_every": 0.0} | more
    assembled = assemble(resolve(Layer(options)), processes)
    data = dataclasses.replace(assembled.workload.data, problems=())
    workload = dataclasses.replace(assembled.workload, data=data)
    run = start_arm("vpretraining", assembled, workload=workload)
    run.state.learner.model.embed_tokens.register_forward_hook(
        lambda module, inputs, output: torch.nn.functional.dropout(output, 0.1, module.training)
    )
    log = Kept(path, processes) if processes.first else Drawing(processes, stopping)
    return dataclasses.replace(run, log=log)


def stopped_and_resumed(
    processes: vfunc.Processes, folder: Path, more: dict | None = None
) -> dict[str, object]:
    """Where the signal stopped each process, and whether they ended as if there had been none."""
    more = more or {}
    unbroken = new_arm(processes, folder / "unbroken.pt", more, stopping=False)
    run_arm(unbroken)
    broken, code = new_arm(processes, folder / "broken.pt", more, stopping=True), None
    try:
        run_arm(broken)
    except Interrupted as stop:
        code = stop.signum
    resumed = new_arm(processes, folder / "broken.pt", more, stopping=False)
    processes.wait()
    load_newest(resumed.state, folder / "broken.pt", rank=processes.rank)
    at = resumed.state.counters.step
    run_arm(resumed)
    ended, beside = (gathered(dict(r.state.learner.state_dict())) for r in (resumed, unbroken))
    return {
        "signal": code,
        "stopped after": broken.state.counters.step,
        "resumed at": at,
        "same": all(torch.equal(x, beside[name]) for name, x in ended.items()),
        "drawn": int(torch.get_rng_state().sum()),
    }
