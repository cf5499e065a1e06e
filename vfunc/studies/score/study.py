"""Carries out a score: states of a run, each measured once and kept on disk, then the tables."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from torch import nn

from vfunc.errors import UserError
from vfunc.printable import SafeConsole
from vfunc.studies.score.doing import require_halves
from vfunc.studies.score.rows import chosen
from vfunc.studies.score.score_files import write_score
from vfunc.studies.score.score_plan import (
    Setting,
    asked_file,
    below_of,
    identity_of,
    make_room,
    place_of,
    settings_for,
)
from vfunc.studies.score.state_score import Asked, measure_state
from vfunc.studies.score_command import ScoreOptions
from vfunc.training.arm_run import ArmRun
from vfunc.training.assemble import assemble
from vfunc.training.loop import one_step
from vfunc.training.options.estimator_options import usual_decays
from vfunc.training.options.run_config import RunConfig
from vfunc.training.run_command_line import PRESETS, parse
from vfunc.training.start import start_arm
from vfunc.training.state import RunningMeans

SNAPSHOTS = 4
"""Points of a designer's training that its tasks are taken from, the state itself included."""


def score(
    options: ScoreOptions, rest: Sequence[str], command: str, presets: Path = PRESETS
) -> None:
    """Measure the states that are missing, and write the tables.

    Args:
        options: what is scored.
        rest: arguments of `run`.
        command: the whole command line, for the files.
        presets: folder of the presets.

    Raises:
        UserError: the user's mistake; nothing has been measured.
    """
    console = SafeConsole(width=None if sys.stdout.isatty() else 100)
    rows, settings = chosen(options.only, options.also), settings_for(options, rest, presets)
    if not rows:
        raise UserError(f"--only {options.only!r} matches no estimator; see --help")
    missing = [
        (setting, fraction)
        for setting in settings
        for fraction in options.states
        if setting.config.command.overwrite or not place_of(setting, fraction).exists()
    ]
    if settings[0].config.command.dry_run:
        for setting in settings:
            for fraction in options.states:
                state = "to do" if (setting, fraction) in missing else "measured"
                line = f"{state:10}{place_of(setting, fraction)}"
                console.print(line, highlight=False, soft_wrap=True)
        return
    for setting in dict.fromkeys(setting for setting, _ in missing):  # before any is measured
        assembled = assemble(setting.config)
        require_halves(assembled.workload, setting.config.estimator.feedback_bank)
    make_room(settings)
    for setting in settings:
        setting.folder.mkdir(parents=True, exist_ok=True)
        asked_file(setting).write_text(identity_of(setting, options, rows), encoding="utf-8")
    _measure(missing, options, console)
    measured = [
        (
            setting.label,
            [json.loads(place_of(setting, f).read_text(encoding="utf-8")) for f in options.states],
        )
        for setting in settings
    ]
    folder = settings[0].folder.parent if options.sweep else settings[0].folder
    write_score(measured, options, command, folder, console)


def states_of(
    config: RunConfig, arm: str, fractions: Sequence[float]
) -> Iterator[tuple[float, ArmRun, list[nn.Module]]]:
    """An arm in training at some fractions of its budget, with its designer at points before.

    Args:
        config: the run's.
        arm: the arm.
        fractions: increasing.

    Yields:
        The fraction, the arm between two steps, and its designer then and earlier, latest first.
    """
    run = start_arm(arm, assemble(config))
    if run.state.running is None:  # deflated values take means whatever trains the designer
        run.state.running = RunningMeans(usual_decays(1))
    last, kept = max(fractions), dict[int, nn.Module]()
    for fraction in sorted(fractions):
        while (now := _spent(run)) < fraction:
            if run.state.designer is not None and (part := int(8 * now / last)) not in kept:
                kept[part] = copy.deepcopy(run.state.designer)
            one_step(run)
        designers: list[nn.Module] = []
        if run.state.designer is not None:
            past = list(kept.values())
            every = max(1, len(past) // (SNAPSHOTS - 1))
            designers = [copy.deepcopy(run.state.designer), *past[::-1][::every][: SNAPSHOTS - 1]]
        yield fraction, run, designers


def _measure(
    missing: Sequence[tuple[Setting, float]], options: ScoreOptions, console: SafeConsole
) -> None:
    """Measure states, side by side if so asked, each written as soon as it is known."""
    done = _Told(len(missing))
    if options.jobs == 1:
        for setting in dict.fromkeys(setting for setting, _ in missing):
            fractions = [f for s, f in missing if s is setting]
            _measure_setting(setting, fractions, options, done)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(options.jobs, len(missing) or 1), context) as pool:
        jobs = {
            pool.submit(_in_a_process, setting.words, str(setting.folder), fraction, options): (
                setting,
                fraction,
            )
            for setting, fraction in missing
        }
        try:
            for job in as_completed(jobs):
                job.result()
                done.state(*jobs[job])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _in_a_process(
    words: tuple[str, ...], folder: str, fraction: float, options: ScoreOptions
) -> None:
    """Measure one state in a process of its own."""
    config = parse(words, below=below_of(options, words))
    if not config.run.threads:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // options.jobs))
    _measure_setting(Setting("", words, config, Path(folder)), [fraction], options, None)


class _Told:
    """One line of progress: on a terminal what is being done, and each state as it is measured."""

    def __init__(self, states: int) -> None:
        self.states, self.measured = states, 0

    def doing(self, what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{what[:99]:100}", end="", file=sys.stderr, flush=True)

    def state(self, setting: Setting, fraction: float) -> None:
        self.measured += 1
        said = f"{self.measured} of {self.states} states measured: {fraction} {setting.label}"
        start = "\r" if sys.stderr.isatty() else ""
        print(f"{start}{said.rstrip():<{100 if start else 0}}", file=sys.stderr, flush=True)


def _measure_setting(
    setting: Setting, fractions: Sequence[float], options: ScoreOptions, told: _Told | None
) -> None:
    asked = Asked(
        options.tasks,
        options.horizons,
        options.task_by_task,
        options.directions,
        setting.config.run.seed,
    )
    rows = chosen(options.only, options.also)
    first = min(options.states)
    for fraction, run, designers in states_of(setting.config, options.arm, fractions):

        def doing(what: str, fraction: float = fraction) -> None:
            if told is not None:
                told.doing(f"{setting.label} state {fraction}: {what}".strip())

        found = measure_state(
            run, setting.config, designers, rows, asked, doing, memory=fraction == first
        )
        place = place_of(setting, fraction)
        draft = place.with_suffix(".part")
        draft.write_text(json.dumps(found), encoding="utf-8")
        draft.replace(place)
        if told is not None:
            told.state(setting, fraction)


def _spent(run: ArmRun) -> float:
    at = run.state.counters
    return run.plan.spent(at.step, at.units, at.seconds)
