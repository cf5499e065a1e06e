"""Carries out a score: states of a run, each measured once and kept on disk, then the tables."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vfunc.config.known import flag
from vfunc.errors import UserError
from vfunc.printable import SafeConsole
from vfunc.studies.repetition import settings_of
from vfunc.studies.score.doing import require_halves
from vfunc.studies.score.rows import Row, chosen
from vfunc.studies.score.score_files import write_score
from vfunc.studies.score.state_score import Asked, measure_state
from vfunc.studies.score_command import ScoreOptions
from vfunc.training.arm_run import ArmRun
from vfunc.training.assemble import assemble
from vfunc.training.build.configuration import COMMAND, default_name
from vfunc.training.files.identity import INDIFFERENT, plain
from vfunc.training.loop import one_step
from vfunc.training.options import LANGUAGE, RunConfig, usual_decays
from vfunc.training.run_command_line import PRESETS, given_on_command_line, options_there, parse
from vfunc.training.start import start_arm
from vfunc.training.state import RunningMeans

IDLE = {
    "arms": "one arm reaches the states; give --arm",
    "eval_every": "nothing is followed on the way to a state",
    "save_every": "states are measured, and kept when they are",
    "probe_batches": "the score takes the place of the probe",
    "certify": "every row is measured; vfunc.certify(problem, theta, phi) holds one",
    "resume": "the same command given again goes on with what is missing",
    "accept_changes": "it is for --resume of a run",
}
SNAPSHOTS = 4
"""Points of a designer's training that its tasks are taken from, the state itself included."""


@dataclass(frozen=True)
class Setting:
    """A run whose states are measured: one value of the option that is swept.

    Attributes:
        label: `feedback_batch_size=8`; "" where nothing is swept.
        words: the run's whole command line, from which other processes make the same run.
        config: the same, resolved.
        folder: where its states are kept.
    """

    label: str
    words: tuple[str, ...]
    config: RunConfig
    folder: Path


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
    rows, settings = chosen(options.only, options.also), _settings(options, rest, presets)
    if not rows:
        raise UserError(f"--only {options.only!r} matches no estimator; see --help")
    missing = [
        (setting, fraction)
        for setting in settings
        for fraction in options.states
        if not _place(setting, fraction).exists()
    ]
    if settings[0].config.command.dry_run:
        for setting in settings:
            for fraction in options.states:
                state = "to do" if (setting, fraction) in missing else "measured"
                line = f"{state:10}{_place(setting, fraction)}"
                console.print(line, highlight=False, soft_wrap=True)
        return
    for setting in dict.fromkeys(setting for setting, _ in missing):  # before any is measured
        assembled = assemble(setting.config)
        require_halves(assembled.workload, setting.config.estimator.feedback_bank)
    for setting in settings:
        setting.folder.mkdir(parents=True, exist_ok=True)
        _asked_file(setting).write_text(_identity(setting, options, rows), encoding="utf-8")
    _measure(missing, options, console)
    measured = [
        (
            setting.label,
            [json.loads(_place(setting, f).read_text(encoding="utf-8")) for f in options.states],
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


def _settings(options: ScoreOptions, rest: Sequence[str], presets: Path) -> list[Setting]:
    given = given_on_command_line(rest, presets=presets)
    for name, reason in IDLE.items():
        if name in given:
            raise UserError(f"{flag(name)} does nothing here: {reason}")
    tried: list[tuple[str, tuple[str, ...]]] = [("", ())]
    if options.sweep:
        option, values = options.sweep[0].replace("-", "_"), options.sweep[1:]
        if option in given:
            raise UserError(f"{flag(option)} is given and swept as well; leave one out")
        try:
            found = settings_of([f"{option}={','.join(values)}"], options_there(rest, presets))
        except UserError as error:
            raise UserError(str(error).replace("--vary", "--sweep")) from error
        tried = [(one.label, one.arguments) for one in found]
    settings: list[Setting] = []
    folder = None
    for label, arguments in tried:
        words = (*rest, *arguments)
        config = parse(words, presets)
        _refuse(config, options)
        if folder is None:
            stem = "-".join(["score", default_name(config), *(options.sweep or ())[:1]])
            folder = Path(config.command.runs_dir) / (config.command.name or stem)
        place = folder / re.sub(r"[^\w.+=,@-]", "_", label) if label else folder
        settings.append(Setting(label, words, config, place))
    _refuse_others(settings, options)
    return settings


def _refuse(config: RunConfig, options: ScoreOptions) -> None:
    """Refuse a run that has no score."""
    if config.run.modality != LANGUAGE:
        raise UserError(
            "the score is for --modality language: a learned view is not linear in what the "
            "designer makes, so that no baseline lies among its tasks"
        )
    if config.run.budget.unit == "seconds":
        raise UserError(
            "a state by wall-clock would be another one each time; give --budget in steps or tokens"
        )
    if config.options.get("feedback_combine") == "matched":
        raise UserError("the score is of one L_down; --feedback-combine matched asks for several")
    if options.arm == "baseline" and config.designer.freeze_designer:
        raise UserError("--freeze-designer does nothing here: --arm baseline has no designer")


def _refuse_others(settings: Sequence[Setting], options: ScoreOptions) -> None:
    """Refuse a folder that holds states of another question."""
    rows = chosen(options.only, options.also)
    for setting in settings:
        if setting.config.command.overwrite:
            for old in setting.folder.glob("state-*.json"):
                old.unlink()
            continue
        if not setting.folder.exists() or not any(setting.folder.iterdir()):
            continue
        there = _asked_file(setting)
        if not there.exists():
            if options.sweep is None and any(setting.folder.glob("*/asked.json")):
                raise UserError(f"{setting.folder} holds a sweep; give another --name")
            raise UserError(f"{setting.folder} is there and no score; give another --name")
        now, then = json.loads(_identity(setting, options, rows)), json.loads(there.read_text())
        other = [n for n in dict.fromkeys((*now, *then)) if now.get(n) != then.get(n)]
        if other:
            told = ", ".join(f"{n} {then.get(n)} there, {now.get(n)} here" for n in other)
            raise UserError(
                f"{setting.folder} is of another question ({told}); give another --name, or "
                "--overwrite to replace it"
            )


def _identity(setting: Setting, options: ScoreOptions, rows: Sequence[Row]) -> str:
    """What decides over a state's numbers, as text."""
    run = {
        name: plain(value)
        for name, value in setting.config.options.items()
        if name not in INDIFFERENT and name not in COMMAND and name not in IDLE
    }
    own = {
        "arm": options.arm,
        "tasks": options.tasks,
        "horizons": list(options.horizons),
        "task_by_task": options.task_by_task,
        "directions": options.directions,
        "estimators": [row.label for row in rows],
    }
    return json.dumps(run | own, indent=1)


def _measure(
    missing: Sequence[tuple[Setting, float]], options: ScoreOptions, console: SafeConsole
) -> None:
    """Measure states, side by side if so asked, each written as soon as it is known."""
    if options.jobs == 1:
        for setting in dict.fromkeys(setting for setting, _ in missing):
            fractions = [f for s, f in missing if s is setting]
            _measure_setting(setting, fractions, options, show=sys.stderr.isatty())
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
            for number, job in enumerate(as_completed(jobs), start=1):
                job.result()
                setting, fraction = jobs[job]
                said = f"{number} of {len(jobs)} states measured: {fraction} {setting.label}"
                print(said.rstrip(), file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _in_a_process(
    words: tuple[str, ...], folder: str, fraction: float, options: ScoreOptions
) -> None:
    """Measure one state in a process of its own."""
    config = parse(words)
    if not config.run.threads:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // options.jobs))
    _measure_setting(Setting("", words, config, Path(folder)), [fraction], options, show=False)


def _measure_setting(
    setting: Setting, fractions: Sequence[float], options: ScoreOptions, *, show: bool
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

        def told(what: str, fraction: float = fraction) -> None:
            if show:
                line = f"{setting.label} state {fraction}: {what}".strip()
                print(f"\r{line[:99]:100}", end="", file=sys.stderr, flush=True)

        found = measure_state(
            run, setting.config, designers, rows, asked, told, memory=fraction == first
        )
        place = _place(setting, fraction)
        draft = place.with_suffix(".part")
        draft.write_text(json.dumps(found), encoding="utf-8")
        draft.replace(place)
    if show:
        print("\r" + " " * 100, end="\r", file=sys.stderr, flush=True)


def _spent(run: ArmRun) -> float:
    at = run.state.counters
    return run.plan.spent(at.step, at.units, at.seconds)


def _place(setting: Setting, fraction: float) -> Path:
    return setting.folder / f"state-{fraction}.json"


def _asked_file(setting: Setting) -> Path:
    return setting.folder / "asked.json"


def measured_at(folder: Path) -> list[dict[str, Any]]:
    """What was measured at the states that a folder holds, in order.

    Args:
        folder: of a score, or of one setting of a sweep.
    """
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("state-*.json")]
    return sorted(found, key=lambda state: state["fraction"])
