"""What a run is: the options that decide over its numbers, and the digests of what it reads.

It is kept in the run's manifest and in every checkpoint. A run that is resumed with other options
or other data would compare what was trained on the one with what was trained on the other.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vfunc.config.known import flag
from vfunc.estimators import find_estimator
from vfunc.storage.digests import digest_of_file, digest_of_json, digest_of_tensors
from vfunc.training.assemble import Assembled
from vfunc.training.build.configuration import COMMAND
from vfunc.training.files.inputs import differing, digests_of

INDIFFERENT = (
    *COMMAND, "device", "threads", "edge_dir", "data_cache", "loader_workers", "in_memory",
)  # fmt: skip
"""Options of which two runs that are the same may have different ones: names, places, what is made
ahead or kept, and the machine, whose last bits are another matter."""
UNCOUNTED = (*INDIFFERENT, "certify", "save_every", "budget")
"""The same for one run that is resumed: checks and checkpoints change no number; a budget may grow,
and has a rule of its own."""


def identity_of(assembled: Assembled) -> dict[str, Any]:
    """The identity of an assembled run, as plain data.

    Raises:
        UserError: a file that it reads cannot be read.
    """
    config = assembled.config
    inputs = digests_of(config)
    if not any(found["option"] == "learner" for found in inputs.values()):
        tensors = dict(assembled.learner.state_dict())
        inputs["the start learner"] = {"sha256": digest_of_tensors(tensors)}
    if code := _own_code(config.options["estimator"]):
        inputs["the estimator's code"] = {"sha256": code}
    inputs |= {role: {"sha256": digest} for role, digest in assembled.modality.digests.items()}
    return {
        "options": {
            name: plain(value) for name, value in config.options.items() if name not in UNCOUNTED
        },
        "inputs": inputs,
        "processes": assembled.workload.processes.size,
    }


def digest_of_identity(identity: Mapping[str, Any]) -> str:
    """One digest of it all; where files are does not count."""
    inputs = {role: found["sha256"] for role, found in identity["inputs"].items()}
    several = [_processes(identity)] if _processes(identity) > 1 else []
    return digest_of_json([_counted(identity), inputs, *several])


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How two identities differ, in words: each option, then and now, and each file by its role.

    Options that one of them does not know (another version of the package) do not count.
    """
    before, after = _counted(then), _counted(now)
    found = [
        f"{flag(name)} {shown(before[name])} then, {shown(after[name])} now"
        for name in after
        if name in before and before[name] != after[name]
    ]
    if _processes(then) != _processes(now):
        found.append(f"{_processes(then)} processes then, {_processes(now)} now")
    read, reads = then["inputs"], now["inputs"]
    for role in dict.fromkeys((*read, *reads)):
        one, other = read.get(role), reads.get(role)
        if one is None or other is None:
            there = other or one or {}
            when = "now" if one is None else "then"
            found.append(f"{role} {there.get('path', '')}".rstrip() + f" was read {when} alone")
        elif one["sha256"] != other["sha256"]:
            found += differing(role, one, other)
    return found


def files_only(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Of an identity what was read from files: it is the same for every seed and setting."""
    inputs = identity.get("inputs", {})
    return {"options": {}, "inputs": {k: v for k, v in inputs.items() if "option" in v}}


def told(changes: Sequence[str], most: int = 6) -> str:
    """Differences in a line."""
    more = f"; and {len(changes) - most} more" if len(changes) > most else ""
    return "; ".join(changes[:most]) + more


def plain(value: Any) -> Any:
    """A value of an option as plain data."""
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def shown(value: Any) -> str:
    """An option's value in words."""
    if value is None:
        return "none"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def kept_with_checkpoints(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity without the single files of folders, of which there may be thousands."""
    short = {
        role: {name: value for name, value in found.items() if name != "files"}
        for role, found in identity["inputs"].items()
    }
    return {**identity, "inputs": short}


def _processes(identity: Mapping[str, Any]) -> int:
    """How many processes' shares make a batch; runs of before there were several say nothing."""
    return int(identity.get("processes", 1))


def _own_code(estimator: str) -> str | None:
    """The digest of the file that a user's own estimator is in."""
    if ":" not in estimator:
        return None
    file = inspect.getsourcefile(find_estimator(estimator))
    return None if file is None else digest_of_file(Path(file))


def _counted(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Options; of those that name files only names that are no files, whose contents count."""
    options = dict(identity["options"])
    for found in identity["inputs"].values():
        options.pop(found.get("option"), None)
    return options
