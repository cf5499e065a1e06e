"""Runs the arms one after another, and summarises them."""

from __future__ import annotations

import copy
import json
import shlex
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from vfunc.errors import NonFiniteError, NotConvergedError, UserError
from vfunc.printable import SafeConsole
from vfunc.report.events import EventLog, read_events
from vfunc.report.progress import progress
from vfunc.training.arm_run import ArmRun
from vfunc.training.assemble import Assembled, assemble
from vfunc.training.build.configuration import default_name, to_toml
from vfunc.training.certifying import Costly, certified_arm, certify_start
from vfunc.training.checkpoint import (
    load_checkpoint,
    naming_file,
    write_atomically,
    write_json,
)
from vfunc.training.interrupt import Interrupted
from vfunc.training.log import RunLog
from vfunc.training.loop import run_arm
from vfunc.training.options import RunConfig
from vfunc.training.run_directory import RunDirectory, free_name, new_run
from vfunc.training.start import start_arm
from vfunc.training.state import Counters
from vfunc.training.summary import describe_run, finish
from vfunc.workload import Evaluation


def run(config: RunConfig) -> None:
    """Carry out a configuration: train every arm, evaluate, write the run's files, print a table.

    Args:
        config: resolved; `command` says where, and whether to resume or only check.

    Raises:
        UserError: the user's mistake, in one line.
        CertificationError: the estimator's gradient is wrong; nothing has been written.
        NonFiniteError: training broke down; the last good state is on disk.
        Interrupted: stopped by Ctrl-C, SIGTERM or SIGHUP; the state is on disk.
        OSError: a file cannot be written.
    """
    console = SafeConsole()
    if config.command.dry_run and config.described(console):
        console.print(to_toml(config), end="", markup=False, highlight=False)
        return
    assembled = assemble(config)
    console.print(describe_run(assembled), highlight=False)
    if config.command.dry_run:
        console.print(to_toml(config), end="", markup=False, highlight=False)
        return
    runs = Path(config.command.runs_dir)
    if config.command.resume:
        directory = RunDirectory(Path(config.command.resume))
        _require_same_budget(config, directory)
        text = to_toml(config)
        write_atomically(directory.config, lambda t: Path(t).write_text(text, encoding="utf-8"))
    else:
        certified = _certify(assembled, console)
        name = config.command.name or free_name(runs, default_name(config))
        directory = new_run(runs, name, to_toml(config), overwrite=config.command.overwrite)
        _log_certification(certified, directory)
    try:
        if not directory.start.exists():
            _evaluate_start(assembled, directory)
        for arm in config.run.arms:
            if directory.finished(arm) is None:
                _run_one(arm, assembled, directory)
        finish(assembled, directory, console)
    except KeyboardInterrupt as stop:
        message = f"{str(stop) or 'stopped'}; go on with {_resuming(config, directory)}"
        signum = stop.signum if isinstance(stop, Interrupted) else signal.SIGINT
        raise Interrupted(message, signum) from stop
    except (NonFiniteError, NotConvergedError) as error:
        raise type(error)(
            f"{error}; the last good state is in {directory.path / 'checkpoints'}, for "
            f"{_resuming(config, directory)}"
        ) from error


def _certify(assembled: Assembled, console: Console) -> dict[str, Any] | None:
    """Certify the run's estimator and say so in a line; returns the event of it."""
    arm = certified_arm(assembled)
    if arm is None:
        return None
    began, found = time.perf_counter(), None
    try:
        found = certify_start(arm, assembled)
        verdict = "nothing: the first feedback says nothing" if found is None else found.line()
    except Costly as cost:
        verdict = f"nothing: {cost}; vfunc.certify takes the time"
    console.print(f"certified {verdict}", highlight=False, markup=False, soft_wrap=True)
    return {
        "kind": "certification",
        "arm": arm.name,
        "verdict": verdict,
        "notes": [] if found is None else list(found.notes),
        "rows": [] if found is None else [vars(row) for row in found.rows],
        "seconds": time.perf_counter() - began,
    }


def _log_certification(event: dict[str, Any] | None, directory: RunDirectory) -> None:
    if event is not None:
        with EventLog(directory.events) as events, naming_file(events.path):
            events.write(event)


def _resuming(config: RunConfig, directory: RunDirectory) -> str:
    """The option that goes on with this run."""
    path = directory.path
    return f"--resume {shlex.quote(path.name if path.parent == Path('runs') else str(path))}"


def _require_same_budget(config: RunConfig, directory: RunDirectory) -> None:
    """Arms are compared at equal budgets, and a finished arm has spent its own."""
    for arm in config.run.arms:
        done = directory.finished(arm)
        if done is not None and done["budget"] != str(config.run.budget):
            raise UserError(
                f"--budget {config.run.budget}: the arm {arm} of {directory.path} has finished "
                f"with {done['budget']}, and arms share one budget; leave --budget out, or start "
                "a new run"
            )


def _evaluate_start(assembled: Assembled, directory: RunDirectory) -> None:
    """Evaluate the learner that every arm starts from, so that a table says where from."""
    learner = copy.deepcopy(assembled.learner).to(assembled.device)
    evaluation = assembled.workload.evaluate(learner, final=True)
    write_json(directory.start, dict(evaluation.metrics))


def _run_one(name: str, assembled: Assembled, directory: RunDirectory) -> None:
    """Train one arm to its end, and write what it leaves."""
    if assembled.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(assembled.device)
    run = start_arm(name, assembled)
    checkpoint = directory.checkpoint(name)
    if checkpoint.exists():
        load_checkpoint(run.state, checkpoint)
    _forget_events_after(directory, name, run.state.counters)
    with EventLog(directory.events) as events, progress(name, start=run.fraction) as display:
        log = RunLog(events, display, checkpoint, assembled.reporting.unit)
        began = time.perf_counter()
        evaluation = run_arm(replace(run, log=log))
        wall = time.perf_counter() - began
    # the last checkpoint stays until the results are whole
    _write_results(run, assembled, directory, evaluation, wall)
    checkpoint.unlink(missing_ok=True)


def _write_results(
    run: ArmRun, assembled: Assembled, directory: RunDirectory, evaluation: Evaluation, wall: float
) -> None:
    name, state = run.arm.name, run.state
    learner = directory.learner(name)
    learner.parent.mkdir(parents=True, exist_ok=True)
    with naming_file(learner):
        assembled.saving.learner(state.learner, learner)
    if state.designer is not None:
        designer = state.designer
        write_atomically(
            directory.designer(name), lambda path: assembled.saving.designer(designer, Path(path))
        )
    at = state.counters
    content = {
        "arm": name,
        "budget": str(run.plan.budget),
        "steps": at.step,
        assembled.reporting.unit: at.units,
        "seconds": at.seconds,
        "wall_seconds": wall,
        "designer_updates": at.updates,
        "metrics": dict(evaluation.metrics),
        "outcomes": {k: list(v) for k, v in evaluation.outcomes.items()},
    }
    if next(state.learner.parameters()).device.type == "cuda":
        content["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    write_json(directory.result(name), content)


def _forget_events_after(directory: RunDirectory, arm: str, at: Counters) -> None:
    """A resumed arm goes on from its checkpoint: what the log holds beyond it did not happen."""
    if not directory.events.exists():
        return
    kept = [e for e in read_events(directory.events) if e["arm"] != arm or _happened(e, at)]
    whole = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in kept)
    write_atomically(directory.events, lambda t: Path(t).write_text(whole, encoding="utf-8"))


def _happened(event: Mapping[str, Any], at: Counters) -> bool:
    """Whether the state with these counters has an arm's event behind it."""
    if event["kind"] == "certification":  # made once, before any arm
        return True
    if at.step == 0 or event.get("final"):  # a start and an end are evaluated again
        return False
    until = at.step if event["kind"] == "step" else at.followed[0]
    return event.get("step", event.get("at_step")) <= until
