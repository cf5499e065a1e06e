"""Makes the runs of a sweep, with arms that it does not touch once a seed, and compares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vfunc.arms import ARMS
from vfunc.config.layers import Layer
from vfunc.config.values import listed
from vfunc.errors import UserError
from vfunc.printable import SafeConsole
from vfunc.report.seed_statistics import ArmOverSeeds, SeedRun, compare_over_seeds
from vfunc.studies.comparison import carried_out
from vfunc.studies.curves.curve_files import require_writable
from vfunc.studies.curves.curve_options import SweepOptions
from vfunc.studies.finished_runs import FoundRun, measures_of
from vfunc.studies.repetition import PlannedRun, Setting, check, plan
from vfunc.studies.side_by_side import require_independent
from vfunc.training.build.configuration import COMMAND, given_options, resolve
from vfunc.training.run_command_line import given_on_command_line
from vfunc.training.run_directory import RunDirectory

SHARED = "shared"
"""The folder of the runs of arms that the sweep does not touch."""

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Swept:
    """The runs of a sweep, finished.

    Attributes:
        folder: the folder of all runs.
        found: the runs; of those that all settings share the setting is "".
        settings: the settings' labels, in the order asked for.
    """

    folder: Path
    found: tuple[FoundRun, ...]
    settings: tuple[str, ...]

    def of(self, setting: str) -> list[FoundRun]:
        """The runs of one setting."""
        return [one for one in self.found if one.setting == setting]

    @property
    def compared(self) -> list[ArmOverSeeds]:
        """Every arm over its seeds in every setting; what is shared stands in each.

        In Holm's adjustment a shared arm is one comparison, however many settings there are.
        """
        shared = {one.seed_run.seed: one.seed_run.arms for one in self.of("")}
        runs = [
            SeedRun(run.setting, run.seed, {**shared.get(run.seed, {}), **run.arms})
            for setting in self.settings
            for run in (one.seed_run for one in self.of(setting))
        ]
        same = {arm for arms in shared.values() for arm in arms}
        return compare_over_seeds(runs, measures_of(self.found), same)


def swept(
    settings: Sequence[Setting],
    options: SweepOptions,
    rest: Sequence[str],
    console: SafeConsole,
    *,
    study: str,
    refuse: Callable[[Sequence[PlannedRun]], None] = lambda planned: None,
    look_at_data: Callable[[Sequence[PlannedRun], Mapping[str, Data]], None] = lambda *_: None,
    primary: str | None = None,
    look: Callable[[Sequence[FoundRun]], object] = lambda found: None,
) -> Swept | None:
    """Make the runs that are missing; None where `--dry-run` only asks what there is to do.

    Args:
        settings: what differs between the runs.
        options: seeds and jobs.
        rest: arguments of `run`, the same for all runs.
        console: the console to print on.
        study: what a folder without a name is called after.
        refuse: refuses configurations, before anything is loaded.
        look_at_data: refuses data of these runs, by setting, before the first run, as far as they
            are known.
        primary: the metric that the curve is to be about, if one is asked for.
        look: see `carried_out`.

    Raises:
        UserError: the user's mistake; nothing has been run, but where `look` raised it.
    """
    require_writable(options.output)
    _require_touched(rest)
    folder, every = plan(options.seeds, (), rest, settings=settings, study=study)
    refuse(every)
    planned = _apart(folder, every, settings[0].varied)
    require_independent(planned, options.jobs)
    data = {
        one.setting: _read_data(one.directory) for one in planned if one.state == "finished"
    } | check(planned, primary)
    look_at_data(planned, {label: told for label, told in data.items() if told})
    if planned[0].config.command.dry_run:
        for one in planned:
            console.print(f"{one.state:12}{one.directory.path}", highlight=False, soft_wrap=True)
        return None
    found = carried_out(planned, options.jobs, console, look)
    return Swept(folder, tuple(found), tuple(setting.label for setting in settings))


def touched(arm: str) -> bool:
    """Whether an arm's training depends on the feedback: its designer's, its tasks' or its own."""
    one = ARMS[arm]
    asks = one.designed or one.valued or one.direct
    return asks or (bool(one.follows) and touched(one.follows))


def _require_touched(rest: Sequence[str]) -> None:
    """Refuse arms that the sweep does not touch, before a run refuses what is swept for them."""
    given = listed(given_on_command_line(rest).get("arms", ""))
    if given and all(arm in ARMS for arm in given):
        _look_at_arms(given)


def _look_at_arms(asked: Sequence[str]) -> None:
    if not any(touched(arm) for arm in asked):
        raise UserError(
            f"--arms {','.join(asked)}: none of them sees feedback, so that all points of the "
            "curve would be the same; add vpretraining"
        )


def _apart(folder: Path, every: Sequence[PlannedRun], varied: Sequence[str]) -> list[PlannedRun]:
    """The runs of the arms that are touched, behind one a seed of those that are not.

    Args:
        folder: the folder of all runs.
        every: the runs with all arms, in every setting.
        varied: the options that differ between settings.

    Raises:
        UserError: no arm is touched.
    """
    asked = every[0].config.run.arms
    _look_at_arms(asked)
    moving = tuple(arm for arm in asked if touched(arm))
    still = tuple(arm for arm in asked if not touched(arm))
    seeds = {one.config.run.seed: one for one in every} if still else {}
    # without what varies, so that the same runs serve whatever is added to it
    shared = [_with_arms(one, still, folder / SHARED, "", varied) for one in seeds.values()]
    return [
        *shared,
        *(_with_arms(one, moving, one.directory.path.parent, one.setting) for one in every),
    ]


def _with_arms(
    one: PlannedRun,
    arms: tuple[str, ...],
    folder: Path,
    setting: str,
    without: Sequence[str] = (),
) -> PlannedRun:
    """The same run with these arms alone; options of the others give way, and some are left out."""
    given = {n: v for n, v in given_options(one.config).items() if n not in (*COMMAND, *without)}
    made = resolve(Layer(given, "the run of all arms"), Layer({"arms": arms}))
    command = {n: one.config.options[n] for n in COMMAND if n in one.config.options}
    directory = RunDirectory(folder / one.directory.path.name)
    config = made.changed(**{**command, "name": directory.path.name, "runs_dir": str(folder)})
    return replace(one, setting=setting, config=config, directory=directory)


def _read_data(directory: RunDirectory) -> Data:
    """What a finished run says of its data."""
    return (directory.read(directory.metrics) or {}).get("data", {})
