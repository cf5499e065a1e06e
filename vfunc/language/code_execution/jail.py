"""Shuts itself in, then runs one of two parts: a learner's program, or the tests that judge it.

It is started as a script of its own by `vfunc.language.code_execution.containment`, with an empty
environment, and reads from standard input what it is to do. Nothing of the package can be imported
here: what is needed comes as text.

The layers, each named in the refusal where it cannot be had: namespaces of users, mounts,
processes, network, inter-process communication and host name; a file system in memory that holds
the interpreter and its libraries, read-only, and one empty folder of bounded size, without /proc;
resource limits; another user without capabilities; a filter of system calls. The part is process
number 1 of its namespace, so that whatever it starts ends with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import sys
import types
from typing import Any

USER, MOUNTS, PROCESSES = 0x10000000, 0x00020000, 0x20000000
NAMESPACES = {
    "network": 0x40000000,
    "inter-process communication": 0x08000000,
    "host name": 0x04000000,
    "mount": MOUNTS,
    "process": PROCESSES,
}
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC, _REMOUNT, _BIND, _REC, _PRIVATE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18,
)  # fmt: skip
_DEATH, _NEW_PRIVILEGES, _SECCOMP, _BOUNDING = 1, 38, 22, 24
_PIVOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}
_MOUNT_SETATTR = 442
NOBODY = 65534

_libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """A layer that cannot be had."""


def _must(layer: str, result: int) -> int:
    if result < 0:
        raise Refused(f"{layer}: {os.strerror(ctypes.get_errno())}")
    return result


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    words = [word.encode() if word else None for word in (source, target, kind)]
    layer = f"mount {target}"
    _must(layer, _libc.mount(*words, ctypes.c_ulong(flags), data.encode() or None))


def _new_user() -> None:
    """A user namespace; root keeps its own number and nobody's, anybody else becomes nobody."""
    uid, gid, own = os.geteuid(), os.getegid(), os.getpid()
    if uid != 0:
        _must("user namespace", _libc.unshare(USER))
        _written("/proc/self/setgroups", "deny")
        _written("/proc/self/uid_map", f"{NOBODY} {uid} 1")
        _written("/proc/self/gid_map", f"{NOBODY} {gid} 1")
        return
    # two numbers can be mapped from outside alone
    there, ready = os.pipe()
    helper = os.fork()
    if helper == 0:
        code = 1
        try:
            os.close(ready)
            os.read(there, 1)
            for name in ("uid_map", "gid_map"):
                _written(f"/proc/{own}/{name}", f"0 0 1\n{NOBODY} {NOBODY} 1")
            code = 0
        finally:
            os._exit(code)
    os.close(there)
    _must("user namespace", _libc.unshare(USER))
    os.close(ready)
    _, status = os.waitpid(helper, 0)
    if status:
        raise Refused("user namespace: its users cannot be mapped")


def _written(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError as error:
        raise Refused(f"user namespace: {path}: {error.strerror}") from error


def _own_files(config: dict[str, Any]) -> None:
    """A root of its own: read-only binds, a few devices, and an empty folder /work."""
    root = config["root"]
    _mount("", "/", "", _REC | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NO_SUID, "size=1m,nr_inodes=4096,mode=0755")
    os.umask(0o022)
    for path, target in config["links"].items():
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(target, root + path)
    for path in config["binds"]:
        _bound(path, root + path, devices=False)
    for path in config["hidden"]:
        if os.path.isdir(root + path):
            _mount("tmpfs", root + path, "tmpfs", _READ_ONLY | _NO_SUID, "size=4k,mode=0555")
    for device in ("null", "zero", "random", "urandom"):
        _bound(f"/dev/{device}", f"{root}/dev/{device}", devices=True)
    os.mkdir(root + "/work")
    disk = config["limits"]["disk"]
    own = f"size={disk},nr_inodes=4096,mode=0700,uid={NOBODY},gid={NOBODY}"
    _mount("tmpfs", root + "/work", "tmpfs", _NO_SUID | _NO_DEVICES | _NO_EXEC, own)
    if not os.path.lexists(root + "/tmp"):
        os.symlink("work", root + "/tmp")
    _mount("", root, "", _REMOUNT | _BIND | _READ_ONLY | _NO_SUID)
    os.chdir(root)
    pivot = _PIVOT[platform.machine()]
    _must("pivot_root", _libc.syscall(pivot, b".", b"."))
    _must("unmount of the old root", _libc.umount2(b".", 2))  # MNT_DETACH
    os.chdir("/work")


def _bound(path: str, target: str, *, devices: bool) -> None:
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(path, target, "", _BIND | _REC)
    if devices:
        return
    wanted = (ctypes.c_uint64 * 4)(_READ_ONLY | _NO_SUID | _NO_DEVICES, 0, 0, 0)
    recursive, here = 0x8000, -100
    result = _libc.syscall(
        _MOUNT_SETATTR, here, target.encode(), recursive, ctypes.byref(wanted), 32
    )
    _must(f"read-only {path}", result)


def _limited(limits: dict[str, int]) -> None:
    asked = {
        resource.RLIMIT_CPU: limits["seconds"],
        resource.RLIMIT_AS: limits["memory"],
        resource.RLIMIT_FSIZE: limits["disk"],
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    for kind, most in asked.items():
        try:
            resource.setrlimit(kind, (most, most))
        except (OSError, ValueError) as error:
            raise Refused(f"resource limit {kind}: {error}") from error


def _powerless(was_root: bool) -> None:
    """Nobody, without capabilities and without a way to any."""
    for capability in range(64):
        if _libc.prctl(_BOUNDING, capability, 0, 0, 0) != 0:
            break
    if was_root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    none = (ctypes.c_uint32 * 6)()
    capset = _CAPSET[platform.machine()]
    _must("capabilities", _libc.syscall(capset, ctypes.byref(header), ctypes.byref(none)))
    _must("no_new_privs", _libc.prctl(_NEW_PRIVILEGES, 1, 0, 0, 0))


def _filtered(program: bytes) -> None:
    class Program(ctypes.Structure):
        _fields_ = (("count", ctypes.c_ushort), ("lines", ctypes.c_char_p))

    held = ctypes.create_string_buffer(program, len(program))
    asked = Program(len(program) // 8, ctypes.cast(held, ctypes.c_char_p))
    _must("filter of system calls", _libc.prctl(_SECCOMP, 2, ctypes.byref(asked), 0, 0))


def _part(config: dict[str, Any], alive: int) -> None:
    """The inner process: all that is left to shut, then its part."""
    fds, was_root = config["fds"], os.geteuid() == 0
    try:
        os.setsid()
        nothing = os.open("/dev/null", os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        os.close(nothing)
        _own_files(config)
        _limited(config["limits"])
        _powerless(was_root)
        _libc.prctl(_DEATH, signal.SIGKILL, 0, 0, 0)
        os.set_blocking(alive, False)
        try:
            os.read(alive, 1)  # the outer process has gone before we asked to go with it
            os._exit(1)
        except BlockingIOError:
            pass
        modules = _modules(config["modules"])
        if config["filter"]:
            _filtered(bytes.fromhex(config["filter"]))
    except (Refused, OSError) as error:
        _said(fds["status"], f"refused {error}")
        os._exit(1)
    _said(fds["status"], "ready")
    os.close(fds["status"])
    modules[config["part"]].run(fds, config["given"])
    os._exit(0)


def _modules(texts: dict[str, str]) -> dict[str, Any]:
    """The package's own modules that the part needs, from their text."""
    found = {}
    for name, text in texts.items():
        above = ""
        for piece in name.split(".")[:-1]:
            above = f"{above}.{piece}" if above else piece
            package = sys.modules.setdefault(above, types.ModuleType(above))
            package.__path__ = []
        module = types.ModuleType(name)
        sys.modules[name] = module
        exec(compile(text, name, "exec"), module.__dict__)
        found[name.rpartition(".")[2]] = module
    return found


def _said(status: int, line: str) -> None:
    os.write(status, line.replace("\n", " ").encode()[:400] + b"\n")


def main() -> None:
    """Read what to do, shut in, and wait for the inner process."""
    _libc.prctl(_DEATH, signal.SIGKILL, 0, 0, 0)
    config = json.loads(sys.stdin.buffer.read())
    status = config["fds"]["status"]
    alive, held = os.pipe()
    try:
        _new_user()
        for name, flag in NAMESPACES.items():
            _must(f"{name} namespace", _libc.unshare(flag))
        inner = os.fork()
    except (Refused, OSError) as error:
        _said(status, f"refused {error}")
        os._exit(1)
    if inner == 0:
        os.close(held)
        _part(config, alive)
    _said(status, f"pid {inner}")
    for fd in config["fds"].values():
        os.close(fd)
    os.waitpid(inner, 0)
    os._exit(0)


if __name__ == "__main__":
    main()
