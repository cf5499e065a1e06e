"""Opens a run's folder: a new one, one that is replaced, or one that is gone on with.

Whoever has it open owns it, see `vfunc.storage.lock`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vfunc.errors import UserError
from vfunc.storage.digests import begins_as, digest_of_bytes, so_far
from vfunc.storage.manifest import NAME, Manifest
from vfunc.training.budget import parse_budget
from vfunc.training.build.configuration import to_toml
from vfunc.training.checkpoint import peek, write_atomically
from vfunc.training.files.identity import differences, digest_of_identity, told
from vfunc.training.files.written import remove_temporary, remove_written
from vfunc.training.options.run_config import RunConfig
from vfunc.training.run_directory import RunDirectory, free_name, require_replaceable


def run_there(config: RunConfig) -> RunDirectory | None:
    """The run that a command goes on with or replaces; None for a new one.

    Raises:
        UserError: there is a run of that name, and it is not to be replaced; or what is there is
            no run.
    """
    command = config.command
    if command.resume:
        return RunDirectory(Path(command.resume))
    if command.name is None:
        return None
    directory = RunDirectory(Path(command.runs_dir) / command.name)
    if not directory.path.exists():
        return None
    if not command.overwrite:
        raise _taken(directory)
    require_replaceable(directory)
    return directory


def require_place(runs: Path) -> None:
    """Make sure that a run's folder can be made, before time is spent on what it is to hold.

    Args:
        runs: the folder of all runs, which need not be there.

    Raises:
        UserError: something of its path is no folder, or nothing can be written there.
    """
    place = next(p for p in (runs, *runs.absolute().parents) if p.exists() or p.is_symlink())
    if not place.is_dir():
        raise UserError(f"--runs-dir {runs}: {place} is no folder; name another place")
    try:
        tempfile.TemporaryDirectory(dir=place, prefix=".try-").cleanup()
    except OSError as error:
        raise UserError(
            f"--runs-dir {runs}: no run can be written in {place} ({error.strerror}); name another "
            "place"
        ) from error


def new_folder(runs: Path, name: str | None, stem: str) -> RunDirectory:
    """Make the folder of a new run.

    Args:
        runs: the folder of all runs.
        name: the run's; None takes the first that is free.
        stem: what a free name begins with.

    Raises:
        UserError: there is a run of that name.
    """
    while True:
        directory = RunDirectory(runs / (name or free_name(runs, stem)))
        try:
            directory.path.mkdir(parents=True)
            return directory
        except FileExistsError:  # another process was faster
            if name is not None:
                raise _taken(directory) from None


def cleared(directory: RunDirectory) -> RunDirectory:
    """A run's folder without what the run has written, for another.

    Raises:
        UserError: it is no run.
    """
    require_replaceable(directory)
    # what tells that it is a run stays until the new one's takes its place
    remove_written(directory.path, keep=(directory.config.name, NAME))
    return directory


def begin(directory: RunDirectory, config: RunConfig, identity: Mapping[str, Any]) -> None:
    """Write the configuration and the manifest of a new run.

    Raises:
        OSError: they cannot be written.
    """
    _write_config(directory, config)
    kept = {**identity, "budget": str(config.run.budget)}
    directory.keep(Manifest(directory.digests(directory.config), kept))


def go_on(
    directory: RunDirectory, config: RunConfig, identity: Mapping[str, Any]
) -> tuple[list[str], bool]:
    """Make sure that a run which is resumed is the one that was interrupted; write what is new.

    Args:
        directory: the run.
        config: resolved; `command.accept_changes` goes on with another run than it was.
        identity: what it is now.

    Returns:
        Lines to tell, and whether something has changed, which was accepted.

    Raises:
        UserError: something differs, which is named; or an arm has spent more than the budget.
    """
    remove_temporary(directory.path)
    lines, changes = [], []
    try:
        manifest = directory.manifest()
    except UserError as damaged:
        if not config.command.accept_changes:
            raise UserError(
                f"{damaged}, or give --accept-changes to have it made anew, which the results say"
            ) from damaged
        changes.append(str(damaged))
        manifest = _adopted(directory)
    if manifest is None:
        manifest = _adopted(directory)
        lines.append(
            f"note: {directory.path} was written before runs kept digests; its configuration and "
            "data are taken as they are"
        )
    _require_budget(directory, config, manifest)
    changes += _changes(directory, config, manifest, identity)
    if changes and not config.command.accept_changes:
        raise UserError(
            f"{directory.path} is not what it was: {told(changes)}; undo that, or give "
            "--accept-changes to go on all the same, which its results will say"
        )
    if config.command.accept_changes and not changes:
        raise UserError("--accept-changes does nothing here: nothing has changed; leave it out")
    lines += [f"accepted  {change}" for change in changes]
    before = manifest.before
    if changes and manifest.identity:
        before = tuple(dict.fromkeys((*before, digest_of_identity(manifest.identity))))
    for arm in config.run.arms:
        if directory.finished(arm) is not None:  # the process died before it removed these
            directory.forget_checkpoints(arm)
    _write_config(directory, config)
    directory.keep(
        replace(
            manifest,
            files={**manifest.files, **directory.digests(directory.config)},
            identity={**identity, "budget": str(config.run.budget)},
            events=so_far(directory.events) if changes and manifest.events else manifest.events,
            before=before,
            accepted=(*manifest.accepted, *changes),
        )
    )
    return lines, bool(changes)


def give_up_log(directory: RunDirectory, whole: bytes) -> None:
    """Note which logs the checkpoints have seen that are about to change.

    An arm whose results were removed is trained anew, and its events go from before those of arms
    that were trained after it.

    Args:
        directory: the run.
        whole: what its log is to hold.

    Raises:
        OSError: the manifest cannot be written.
    """
    manifest = directory.manifest()
    if manifest is None:
        return
    seen = [peek(path) for path in sorted((directory.path / "checkpoints").glob("*.pt"))]
    logs = [found[1].get("log") for found in seen if found is not None]
    lost = [
        log["sha256"]
        for log in (*logs, manifest.events)
        if log
        and digest_of_bytes(whole[: log["bytes"]]) != log["sha256"]
        and begins_as(directory.events, log)
    ]
    if lost:
        before = tuple(dict.fromkeys((*manifest.before, *lost)))
        directory.keep(replace(manifest, before=before, events=None))


def require_own(
    kept: Mapping[str, Any], directory: RunDirectory, identity: Mapping[str, Any]
) -> None:
    """Refuse a checkpoint that was made by another run than this, or with another log.

    Args:
        kept: what was kept with it.
        directory: the run.
        identity: what it is.

    Raises:
        UserError: what differs.
    """
    changes = _changes_since(kept, directory, directory.manifest() or Manifest(), identity)
    if changes:
        raise UserError(
            f"{directory.path} is not what it was at its last checkpoint: {told(changes)}; undo "
            "that, or give --accept-changes to go on all the same, which its results will say"
        )


def _changes(
    directory: RunDirectory,
    config: RunConfig,
    manifest: Manifest,
    identity: Mapping[str, Any],
) -> list[str]:
    """What is not as it was, as the manifest and the newest checkpoints tell."""
    changes = []
    if not directory.config.read_text(encoding="utf-8").strip():
        changes.append(f"{directory.config} is empty")
    if manifest.identity:
        changes += differences(manifest.identity, identity)
    if not begins_as(directory.events, manifest.events):
        changes.append(f"{directory.events} has not the events that it had")
    for arm in config.run.arms:
        seen = peek(directory.checkpoint(arm))
        if seen is not None:
            changes += _changes_since(seen[1], directory, manifest, identity)
    return list(dict.fromkeys(changes))


def _changes_since(
    kept: Mapping[str, Any],
    directory: RunDirectory,
    manifest: Manifest,
    identity: Mapping[str, Any],
) -> list[str]:
    changes = []
    then = kept.get("identity")
    if then and digest_of_identity(then) not in manifest.before:
        changes += differences(then, identity)
    log = kept.get("log") or {}
    if not begins_as(directory.events, log) and log.get("sha256") not in manifest.before:
        changes.append(f"{directory.events} has not the events that it had")
    return changes


def _require_budget(directory: RunDirectory, config: RunConfig, manifest: Manifest) -> None:
    """Arms share one budget: a finished arm has spent its own, and none may have spent more.

    Raises:
        UserError: one has, or the budget counts in another unit.
    """
    budget, said = config.run.budget, manifest.identity.get("budget")
    before = None if said is None else parse_budget(said)
    if before is not None and before.unit != budget.unit:
        raise UserError(
            f"{directory.config}: the run counts {before.unit} (it had {before}), and its schedule "
            f"with them; the budget is {budget} now"
        )
    for arm in config.run.arms:
        done = directory.finished(arm)
        if done is not None:
            if done["budget"] != str(budget):
                raise UserError(
                    f"--budget {budget}: the arm {arm} of {directory.path} has finished with "
                    f"{done['budget']}, and arms share one budget; leave --budget out, or start a "
                    "new run"
                )
            continue
        seen = peek(directory.checkpoint(arm))
        # the last step of a budget of tokens or seconds may go beyond it
        if seen is None or before is None or budget.amount >= before.amount:
            continue
        at = seen[0]
        spent = {"steps": at.step, "seconds": at.seconds}.get(budget.unit, at.units)
        if spent > budget.amount:
            raise UserError(
                f"--budget {budget}: the arm {arm} of {directory.path} has spent {spent:g} "
                f"{budget.unit} already; give no less, or leave --budget out"
            )


def _adopted(directory: RunDirectory) -> Manifest:
    """A manifest of what is there, for a run without one."""
    below = (directory.path.glob(pattern) for pattern in ("arms/*.json", "checkpoints/*.pt"))
    there = [directory.start, *(path for paths in below for path in paths)]
    return Manifest(directory.digests(*(path for path in there if path.exists())))


def _write_config(directory: RunDirectory, config: RunConfig) -> None:
    text = to_toml(config)
    write_atomically(directory.config, lambda t: Path(t).write_text(text, encoding="utf-8"))


def _taken(directory: RunDirectory) -> UserError:
    return UserError(
        f"the run {directory.path} exists; give --name another name, --overwrite to replace it, "
        f"or --resume {directory.path.name} to go on with it"
    )
