"""A lock on a run's folder: one process at a time writes there.

The kernel holds the lock for the life of the process and lets go when it dies, however that is, so
that no lock outlives its owner. Where a file system knows no locks, the owner's process is looked
for: it is stale if it runs no more, or if its number was given to another process since.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vfunc.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
_TRIES = 20  # the file of an owner that ends just now is gone again


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock.

    Args:
        folder: the folder, which is there.

    Raises:
        UserError: another process holds it; its number and machine are named.
        OSError: the lock's file cannot be written.
    """
    path = folder / NAME
    handle = _taken(path)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(_myself()).encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may have been moved away
            path.unlink()
        os.close(handle)  # lets go of the lock


def _taken(path: Path) -> int:
    for _ in range(_TRIES):
        # a link would have what it leads to overwritten
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            if not _free(handle):
                raise UserError(_refusal(path, _owner(path)))
            # whoever held it may have removed the file after it was opened here
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(handle)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise UserError(_refusal(path, _owner(path)))


def _free(handle: int) -> bool:
    """Lock the file; whether nobody else has."""
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
    return not _alive(_read(handle))


def _alive(owner: dict[str, Any]) -> bool:
    """Whether an owner may still run; one on another machine may."""
    if not owner:
        return False
    if owner.get("host") != socket.gethostname():
        return True
    pid = owner.get("pid")
    if os.name == "nt":  # where asking for a process may end it
        return True
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return _started(pid) == owner.get("process_start")


def _started(pid: int) -> str | None:
    """When a process was started, in the kernel's own count; None where that is not told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _myself() -> dict[str, Any]:
    pid = os.getpid()
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return {
        "pid": pid,
        "host": socket.gethostname(),
        "process_start": _started(pid),
        "since": now,
    }


def _owner(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            return _read(handle)
        finally:
            os.close(handle)
    return {}


def _read(handle: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(handle, 4096, 0))
    except (OSError, ValueError):  # another process is about to write it
        return {}
    return owner if isinstance(owner, dict) else {}


def _refusal(path: Path, owner: dict[str, Any]) -> str:
    who, stale = "another process", ""
    if owner:
        who = f"process {owner.get('pid')} on {owner.get('host')} (since {owner.get('since')})"
    if os.name == "nt" or owner.get("host", socket.gethostname()) != socket.gethostname():
        stale = f"; if that runs no more, remove {path}"
    return (
        f"{path.parent} is in use by {who}; wait until it ends, or give --name another name{stale}"
    )
