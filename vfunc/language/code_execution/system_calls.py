"""The system calls that a contained program may make, as a filter for the kernel.

A list of what is allowed, not of what is forbidden: no sockets, no new process, no exec, no ptrace,
no mount, no signal to anybody else. Threads are allowed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

_COMMON = {
    "x86_64": {
        "read": 0, "write": 1, "open": 2, "openat": 257, "close": 3, "stat": 4, "fstat": 5,
        "lstat": 6, "newfstatat": 262, "statx": 332, "lseek": 8, "mmap": 9, "mprotect": 10,
        "munmap": 11, "mremap": 25, "madvise": 28, "brk": 12, "rt_sigaction": 13,
        "rt_sigprocmask": 14, "rt_sigreturn": 15, "rt_sigtimedwait": 128, "rt_sigpending": 127,
        "sigaltstack": 131, "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "access": 21,
        "faccessat": 269, "faccessat2": 439, "pipe": 22, "pipe2": 293, "select": 23,
        "pselect6": 270, "poll": 7, "ppoll": 271, "sched_yield": 24, "dup": 32, "dup2": 33,
        "dup3": 292, "nanosleep": 35, "clock_nanosleep": 230, "clock_gettime": 228,
        "clock_getres": 229, "gettimeofday": 96, "time": 201, "getpid": 39, "getppid": 110,
        "gettid": 186, "getuid": 102, "geteuid": 107, "getgid": 104, "getegid": 108,
        "getresuid": 118, "getresgid": 120, "getgroups": 115, "getpgrp": 111, "getpgid": 121,
        "getsid": 124, "uname": 63, "fcntl": 72, "flock": 73, "fsync": 74, "fdatasync": 75,
        "truncate": 76, "ftruncate": 77, "getdents": 78, "getdents64": 217, "getcwd": 79,
        "chdir": 80, "fchdir": 81, "rename": 82, "renameat": 264, "renameat2": 316, "mkdir": 83,
        "mkdirat": 258, "rmdir": 84, "unlink": 87, "unlinkat": 263, "symlink": 88,
        "symlinkat": 266, "link": 86, "linkat": 265, "readlink": 89, "readlinkat": 267,
        "chmod": 90, "fchmod": 91, "fchmodat": 268, "umask": 95, "utimensat": 280,
        "getrlimit": 97, "prlimit64": 302, "getrusage": 98, "sysinfo": 99, "times": 100,
        "arch_prctl": 158, "set_tid_address": 218, "set_robust_list": 273, "get_robust_list": 274,
        "rseq": 334, "futex": 202, "membarrier": 324, "sched_getaffinity": 204,
        "sched_getparam": 143, "sched_getscheduler": 145, "exit": 60, "exit_group": 231,
        "tgkill": 234, "getrandom": 318, "epoll_create1": 291, "epoll_ctl": 233,
        "epoll_wait": 232, "epoll_pwait": 281, "eventfd2": 290, "setitimer": 38, "getitimer": 36,
        "alarm": 37, "pause": 34, "copy_file_range": 326, "sendfile": 40, "restart_syscall": 219,
        "statfs": 137, "fstatfs": 138, "fadvise64": 221, "close_range": 436, "mincore": 27,
    },
    "aarch64": {
        "read": 63, "write": 64, "openat": 56, "close": 57, "fstat": 80, "newfstatat": 79,
        "statx": 291, "lseek": 62, "mmap": 222, "mprotect": 226, "munmap": 215, "mremap": 216,
        "madvise": 233, "brk": 214, "rt_sigaction": 134, "rt_sigprocmask": 135,
        "rt_sigreturn": 139, "rt_sigtimedwait": 137, "rt_sigpending": 136, "sigaltstack": 132,
        "pread64": 67, "pwrite64": 68, "readv": 65, "writev": 66, "faccessat": 48,
        "faccessat2": 439, "pipe2": 59, "pselect6": 72, "ppoll": 73, "sched_yield": 124, "dup": 23,
        "dup3": 24, "nanosleep": 101, "clock_nanosleep": 115, "clock_gettime": 113,
        "clock_getres": 114, "gettimeofday": 169, "getpid": 172, "getppid": 173, "gettid": 178,
        "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177, "getresuid": 148,
        "getresgid": 150, "getgroups": 158, "getpgid": 155, "getsid": 156, "uname": 160,
        "fcntl": 25, "flock": 32, "fsync": 82, "fdatasync": 83, "truncate": 45, "ftruncate": 46,
        "getdents64": 61, "getcwd": 17, "chdir": 49, "fchdir": 50, "renameat": 38,
        "renameat2": 276, "mkdirat": 34, "unlinkat": 35, "symlinkat": 36, "linkat": 37,
        "readlinkat": 78, "fchmod": 52, "fchmodat": 53, "umask": 166, "utimensat": 88,
        "getrlimit": 163, "prlimit64": 261, "getrusage": 165, "sysinfo": 179, "times": 153,
        "set_tid_address": 96, "set_robust_list": 99, "get_robust_list": 100, "rseq": 293,
        "futex": 98, "membarrier": 283, "sched_getaffinity": 123, "sched_getparam": 121,
        "sched_getscheduler": 120, "exit": 93, "exit_group": 94, "tgkill": 131, "getrandom": 278,
        "epoll_create1": 20, "epoll_ctl": 21, "epoll_pwait": 22, "eventfd2": 19,
        "setitimer": 103, "getitimer": 102, "copy_file_range": 285, "sendfile": 71,
        "restart_syscall": 128, "statfs": 43, "fstatfs": 44, "fadvise64": 223, "close_range": 436,
        "mincore": 232,
    },
}  # fmt: skip
_CLONE = {"x86_64": 56, "aarch64": 220}
_IOCTL = {"x86_64": 16, "aarch64": 29}
_TERMINAL_ASKED = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: what opening a file asks."""
_THREAD = 0x10000  # CLONE_THREAD
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NEWEST = 440
"""Calls with a higher number are said not to exist, so that a C library takes an older one."""
_X32 = 0x40000000

MACHINES: Mapping[str, int] = {machine: len(calls) for machine, calls in _COMMON.items()}
"""Architectures with a filter."""

_LOAD, _EQUAL, _GREATER, _BITS, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NUMBER, _ARCH, _FIRST, _SECOND = 0, 4, 16, 24  # offsets in struct seccomp_data


def filter_program(machine: str) -> bytes:
    """A seccomp filter, as instructions of the kernel's packet filter.

    Args:
        machine: `platform.machine()`, a key of `MACHINES`.
    """
    lines: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _AUDIT[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    lines += [(_GREATER, 0, 1, _X32 - 1), (_RETURN, 0, 0, _KILL)]
    lines += [(_GREATER, 0, 1, _NEWEST), (_RETURN, 0, 0, _ERROR | _ENOSYS)]
    lines += _where(435, [(_RETURN, 0, 0, _ERROR | _ENOSYS)])  # clone3, whose flags are in memory
    lines += _where(
        _CLONE[machine],
        [
            (_LOAD, 0, 0, _FIRST),
            (_BITS, 0, 1, _THREAD),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _ERROR | _EPERM),
        ],
    )
    asked = [
        line for one in _TERMINAL_ASKED for line in ((_EQUAL, 0, 1, one), (_RETURN, 0, 0, _ALLOW))
    ]
    lines += _where(
        _IOCTL[machine], [(_LOAD, 0, 0, _SECOND), *asked, (_RETURN, 0, 0, _ERROR | _EPERM)]
    )
    for number in _COMMON[machine].values():
        lines += _where(number, [(_RETURN, 0, 0, _ALLOW)])
    lines.append((_RETURN, 0, 0, _ERROR | _EPERM))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _where(
    number: int, then: Sequence[tuple[int, int, int, int]]
) -> list[tuple[int, int, int, int]]:
    """Instructions for one system call, stepped over by the others."""
    return [(_EQUAL, 0, len(then), number), *then]
