"""Runs the arms one after another, and summarises them."""

from __future__ import annotations

import contextlib
import copy
import gc
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from vfunc.arms import ARMS
from vfunc.errors import NonFiniteError, NotConvergedError
from vfunc.printable import SafeConsole
from vfunc.processes import Processes, joined
from vfunc.report.events import EventLog, read_lines
from vfunc.report.progress import Progress, progress
from vfunc.report.trackers import Trackers
from vfunc.sharding import gathered, spread
from vfunc.storage.lock import locked
from vfunc.training.arm_run import ArmRun
from vfunc.training.assemble import Assembled, assemble
from vfunc.training.build.configuration import COMMAND, default_name, to_toml
from vfunc.training.certifying import Costly, certified_arm, certify_start
from vfunc.training.checkpoint import (
    load_newest,
    naming_file,
    to_disk,
    write_atomically,
    write_json,
)
from vfunc.training.files.identity import identity_of, kept_with_checkpoints
from vfunc.training.files.opening import (
    begin,
    cleared,
    give_up_log,
    go_on,
    new_folder,
    require_own,
    require_place,
    run_there,
)
from vfunc.training.interrupt import Interrupted
from vfunc.training.log import Following, Log, RunLog
from vfunc.training.loop import run_arm
from vfunc.training.options.run_config import RunConfig
from vfunc.training.run_directory import RunDirectory
from vfunc.training.start import start_arm
from vfunc.training.state import ArmState, Counters
from vfunc.training.summary import describe_run, finish
from vfunc.workload import Evaluation


def run(config: RunConfig) -> None:
    """Carry out a configuration: train every arm, evaluate, write the run's files, print a table.

    Args:
        config: resolved; `command` says where, and whether to resume or only check.

    Raises:
        UserError: the user's mistake, in one line.
        CertificationError: the estimator's gradient is wrong; nothing has been written.
        NonFiniteError: training broke down; the last good state is on disk. Or something is not
            finite at the start already, where the estimator is certified; nothing has been written.
        Interrupted: stopped by Ctrl-C, SIGTERM or SIGHUP; the state is on disk.
        OSError: a file cannot be written.
    """
    with contextlib.ExitStack() as owned:
        processes = owned.enter_context(joined())
        console = SafeConsole(quiet=not processes.first)
        if config.command.dry_run and config.described(console):
            console.print(to_toml(config), end="", soft_wrap=True, markup=False, highlight=False)
            return
        owner = processes.first and not config.command.dry_run
        there = run_there(config) if owner else None
        if there is not None:
            owned.enter_context(locked(there.path))
        elif owner:
            require_place(Path(config.command.runs_dir))
        assembled = assemble(config, processes)
        console.print(describe_run(assembled))
        if config.command.dry_run:
            console.print(to_toml(config), end="", soft_wrap=True, markup=False, highlight=False)
            return
        identity = identity_of(assembled)
        # the first process opens the folder, and tells the others where it is
        opened = _opened(assembled, there, identity, console, owned) if owner else None
        path, changed = processes.agreed(opened)
        _carry_out(Running(assembled, RunDirectory(path), identity, console, changed))


def _opened(
    assembled: Assembled,
    there: RunDirectory | None,
    identity: Mapping[str, Any],
    console: Console,
    owned: contextlib.ExitStack,
) -> tuple[Path, bool]:
    """The run's folder, owned by this process, and whether something has changed in it.

    Args:
        assembled: the run.
        there: the folder, if there is one.
        identity: what the run is.
        console: the console to print on.
        owned: what is given back at the end.
    """
    config = assembled.config
    if config.command.resume:
        assert there is not None
        lines, changed = go_on(there, config, identity)
        for line in lines:
            console.print(line, soft_wrap=True)
        return there.path, changed
    certified = _certify(assembled, console)
    if there is None:
        runs = Path(config.command.runs_dir)
        directory = new_folder(runs, config.command.name, default_name(config))
        owned.enter_context(locked(directory.path))
    else:
        directory = cleared(there)
    begin(directory, config, identity)
    _log_certification(certified, directory)
    return directory.path, False


@dataclass(frozen=True)
class Running:
    """A run under way.

    Attributes:
        assembled: what its arms share.
        directory: its folder, owned by the first process, which alone writes there.
        identity: what it is.
        console: the console to print on.
        changed: whether it goes on with something that has changed, which was accepted.
    """

    assembled: Assembled
    directory: RunDirectory
    identity: Mapping[str, Any]
    console: Console
    changed: bool = False

    @property
    def trackers(self) -> tuple[str, ...]:
        """Where figures go besides the event log."""
        return self.assembled.config.command.log

    @property
    def processes(self) -> Processes:
        """The processes that train together."""
        return self.assembled.workload.processes


def _carry_out(run: Running) -> None:
    """Train the arms that are not finished, and summarise; what breaks off says how to go on."""
    directory = run.directory
    try:
        if run.processes.first:  # until it does so again
            directory.diverged.unlink(missing_ok=True)
        _evaluate_start(run)
        _give_back_shards(run)
        for arm in run.processes.agreed(_unfinished(run)):
            _run_one(arm, run)
            _give_back_shards(run)
        if run.processes.first:
            finish(run.assembled, directory, run.console)
    except KeyboardInterrupt as stop:
        message = f"{str(stop) or 'stopped'}; go on with {_resuming(directory)}"
        signum = stop.signum if isinstance(stop, Interrupted) else signal.SIGINT
        raise Interrupted(message, signum) from stop
    except (NonFiniteError, NotConvergedError) as error:
        if run.processes.first and isinstance(error, NonFiniteError):
            write_json(directory.diverged, {"reason": str(error)})
        raise type(error)(
            f"{error}; the last good state is in {directory.path / 'checkpoints'}, for "
            f"{_resuming(directory)}"
        ) from error


def _give_back_shards(run: Running) -> None:
    """Free a learner in shards: its hooks refer to it, so that it would lie there for a while."""
    if run.assembled.config.learner_in_shards:
        gc.collect()


def _unfinished(run: Running) -> list[str]:
    """The arms that have no results yet."""
    return [arm for arm in run.assembled.config.run.arms if run.directory.finished(arm) is None]


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


def _resuming(directory: RunDirectory) -> str:
    """The option that goes on with this run."""
    path = directory.path
    return f"--resume {shlex.quote(path.name if path.parent == Path('runs') else str(path))}"


def _evaluate_start(run: Running) -> None:
    """Evaluate the learner that every arm starts from, so that a table says where from.

    The first process does, unless none holds the learner whole.
    """
    assembled, directory, processes = run.assembled, run.directory, run.processes
    if processes.agreed(processes.first and directory.read(directory.start) is not None):
        return
    if assembled.config.learner_in_shards:
        align = assembled.config.estimator.align
        learner = spread(assembled.learner, align, assembled.device, processes).live
    elif processes.first:
        learner = copy.deepcopy(assembled.learner).to(assembled.device)
    else:
        return
    evaluation = assembled.workload.evaluate(learner, final=True)
    if processes.first:
        write_json(directory.start, dict(evaluation.metrics))
        directory.record(directory.start)


def _run_one(name: str, running: Running) -> None:
    """Train one arm to its end, and write what it leaves."""
    assembled, directory = running.assembled, running.directory
    if assembled.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(assembled.device)
    followed = running.processes.agreed(_followed(name, running))
    run = start_arm(name, assembled, followed=followed)
    with contextlib.ExitStack() as open_files:
        log = _log_of(run, running, open_files)
        began = time.perf_counter()
        evaluation = _trains(run)(replace(run, log=log))
        wall = time.perf_counter() - began
    learner = _whole(run.state, running)
    if running.processes.first:
        # the last checkpoint stays until the results are whole
        _write_results(run, learner, assembled, directory, evaluation, wall)
        directory.forget_checkpoints(name)


def _trains(run: ArmRun) -> Callable[[ArmRun], Evaluation]:
    """What trains an arm: the loop, or TRL."""
    if not run.arm.phases:
        return run_arm
    from vfunc.training.direct.trl_arm import run_trl_arm  # an extra, and long to import

    return run_trl_arm


def _followed(name: str, running: Running) -> list[dict[str, Any]] | None:
    """What the arm that this one follows logged at each micro-batch; nothing if it follows none.

    Micro-batches of one optimizer step are logged by their mean.
    """
    if not running.processes.first:
        return None
    other = ARMS[name].follows
    if not other:
        return []
    lines = read_lines(running.directory.events)
    steps = [e for _, e in lines if e["kind"] == "step" and e["arm"] == other]
    return [e for e in steps for _ in range(running.assembled.config.optimizer.accumulate)]


def _log_of(run: ArmRun, running: Running, open_files: contextlib.ExitStack) -> Log:
    """Put a fresh arm where its newest checkpoint left it; the log that it goes on with.

    Args:
        run: the arm; its state changes.
        running: the run.
        open_files: what is closed when the arm ends.
    """
    directory, processes, name = running.directory, running.processes, run.arm.name
    checkpoint = directory.checkpoint(name)
    unsealed = directory.is_adopted(checkpoint)
    if not processes.first:
        processes.wait()  # a damaged newest checkpoint has been removed
        kept, _ = load_newest(run.state, checkpoint, unsealed=unsealed, rank=processes.rank)
        processes.wait()
        following = Following(processes)
        if kept is not None and running.changed:
            following.checkpoint(run.state)
        return following
    kept, warning = load_newest(run.state, checkpoint, unsealed=unsealed)
    processes.wait()  # the others read it now
    processes.wait()
    if warning:
        running.console.print(f"warning: {warning}", soft_wrap=True)
    if kept is not None and not running.changed:
        require_own(kept, directory, running.identity)
    _forget_events_after(directory, name, run.state.counters)
    at = run.state.counters
    spent = run.plan.spent(at.step, at.units, at.seconds)
    events = open_files.enter_context(EventLog(directory.events))
    display = open_files.enter_context(progress(name, start=spent))
    identity, unit = kept_with_checkpoints(running.identity), running.assembled.reporting.unit
    trackers = _trackers_of(run, running, display) if running.trackers else None
    if trackers is not None:
        open_files.enter_context(trackers)
    log = RunLog(events, display, checkpoint, unit, identity, processes, trackers)
    if kept is not None and running.changed:  # the ones on disk are of what was before
        log.checkpoint(run.state)
    return log


def _trackers_of(run: ArmRun, running: Running, display: Progress) -> Trackers:
    config = running.assembled.config
    options = {k: v for k, v in config.options.items() if k not in COMMAND}
    plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in options.items()}
    return Trackers(
        running.trackers,
        running.directory.path,
        run.arm.name,
        plain,
        run.state.counters.step,
        lambda line: display.message(f"warning: {line}"),
    )


def _whole(state: ArmState, running: Running) -> nn.Module:
    """The learner as it is saved; of one in shards the first process has it whole, on the host."""
    if state.sharded is None:
        return state.learner
    first = running.processes.first
    numbers = gathered(state.learner.state_dict(), kept=first)
    if not first:
        return state.learner
    learner = copy.deepcopy(running.assembled.learner)
    learner.load_state_dict(numbers)
    return learner


def _write_results(
    run: ArmRun,
    whole: nn.Module,
    assembled: Assembled,
    directory: RunDirectory,
    evaluation: Evaluation,
    wall: float,
) -> None:
    name, state = run.arm.name, run.state
    learner = directory.learner(name)
    learner.mkdir(parents=True, exist_ok=True)
    others = {file: file.stat().st_mtime_ns for file in learner.rglob("*")}
    with naming_file(learner):
        assembled.saving.learner(whole, learner)
        saved = [f for f in learner.rglob("*") if others.get(f) != f.stat().st_mtime_ns]
        for file in (*saved, learner):
            to_disk(file)
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
    made = [*saved, directory.designer(name), directory.result(name)]
    if assembled.config.command.leave_checkpoints or directory.keeps(name):
        made.append(directory.checkpoint(name))
    directory.record(*(path for path in made if path.exists()), events=True)


def _forget_events_after(directory: RunDirectory, arm: str, at: Counters) -> None:
    """A resumed arm goes on from its checkpoint: what the log holds beyond it did not happen."""
    if not directory.events.exists():
        return
    lines = read_lines(directory.events)
    whole = b"".join(line for line, e in lines if e["arm"] != arm or _happened(e, at))
    give_up_log(directory, whole)
    write_atomically(directory.events, lambda t: Path(t).write_bytes(whole))


def _happened(event: Mapping[str, Any], at: Counters) -> bool:
    """Whether the state with these counters has an arm's event behind it."""
    if event["kind"] == "certification":  # made once, before any arm
        return True
    if at.step == 0 or event.get("final"):  # a start and an end are evaluated again
        return False
    until = at.step if event["kind"] == "step" else at.followed[0]
    return event.get("step", event.get("at_step")) <= until
