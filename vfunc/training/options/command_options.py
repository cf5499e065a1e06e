"""The options of the command itself: presets, names, folders, resuming, logs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vfunc.config.declared import Need, option
from vfunc.config.values import listed, nearest
from vfunc.errors import UserError
from vfunc.report.trackers import TRACKERS, require_package

_RUN_NAME = re.compile(r"\w[\w.+=,@ -]*")


def _check_trackers(names: tuple[str, ...], where: str) -> None:
    for name in names:
        if name not in TRACKERS:
            known = ", ".join(TRACKERS)
            raise UserError(
                f"{where}: no tracker {name!r}{nearest(name, TRACKERS)}; known: {known}"
            )
        if names.count(name) > 1:
            raise UserError(f"{where} names {name} twice")
        require_package(name)


def _check_name(name: str, where: str) -> None:
    # overwriting removes the run's directory: a name must not lead out of --runs-dir
    if not _RUN_NAME.fullmatch(name):
        raise UserError(f"{where} must be a plain directory name, such as my-run_2, not {name!r}")


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """This command. Not part of a run's configuration, so not in TOML files."""

    preset: str | None = option(
        "Start from a TOML file of vfunc/presets, by its name.", default=None, metavar="NAME"
    )
    config: str | None = option(
        "Read options from a TOML file: the names of this list, with _ for -. It wins over the "
        "preset, and the command line wins over both. Every run writes one that repeats it.",
        default=None,
        metavar="FILE",
    )
    name: str | None = option(
        "Name of the run, and of its directory.",
        default=None,
        shown="made from data, estimator and seed, with a number if taken",
        metavar="NAME",
        check=_check_name,
    )
    runs_dir: str = option("Directory that holds the runs.", default="runs", metavar="DIR")
    overwrite: bool = option("Replace the run of that name, if there is one.", default=False)
    resume: str | None = option(
        "Go on with an interrupted run: its name or directory. Its own options hold; only "
        "--budget, --device, --threads, --runs-dir, --accept-changes, --log, --leave-checkpoints, "
        "--loader-workers, --in-memory, --dry-run and --debug go with it.",
        default=None,
        metavar="RUN",
    )
    accept_changes: bool = option(
        "Go on with a run whose configuration, data or log have changed since; its results say so.",
        default=False,
        needs=(Need(lambda options: options["resume"] is not None, "it is for --resume"),),
    )
    log: tuple[str, ...] = option(
        "Send figures to trackers too, separated by commas: tensorboard (the run's folder), wandb, "
        "trackio. events.jsonl is written in any case.",
        default=(),
        shown="none",
        metavar="NAME,NAME",
        parse=listed,
        check=_check_trackers,
    )
    leave_checkpoints: bool = option(
        "Leave each arm's last checkpoint where it is when it has finished, optimizer and all: "
        "`curve probe` asks it what the next step would do.",
        default=False,
    )
    dry_run: bool = option("Check everything, print the configuration and stop.", default=False)
    debug: bool = option("Show the traceback of an error.", default=False)
