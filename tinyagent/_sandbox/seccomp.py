"""A filter of system calls for the kernel (seccomp), as a program of classic BPF.

It closes what namespaces and Landlock leave open: kinds of sockets, new user namespaces, `io_uring` (whose
requests no filter sees), kernel keyrings, and typing into a terminal (TIOCSTI). A filter is at most a few
hundred bytes, so it is written here instead of by a library.
"""

from __future__ import annotations

import errno
import platform
import socket
import struct
import sys
from collections.abc import Iterable

__all__ = ["seccomp_filter"]

_LOAD, _AND, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000

_CLONE_NEWUSER = 0x10000000
_TERMINAL_INPUT = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX: ioctls that put characters into the input of a terminal."""

_MACHINES = {
    "x86_64": (
        0xC000003E,
        {
            **{"socket": 41, "socketpair": 53, "ioctl": 16, "clone": 56, "unshare": 272, "clone3": 435},
            **{"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427},
            **{"add_key": 248, "request_key": 249, "keyctl": 250},
            **{"bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "truncate": 76, "prlimit64": 302},
            **{"shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66},
            **{"msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "semtimedop": 220, "mq_open": 240},
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            **{"socket": 198, "socketpair": 199, "ioctl": 29, "clone": 220, "unshare": 97, "clone3": 435},
            **{"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427},
            **{"add_key": 217, "request_key": 218, "keyctl": 219},
            **{"bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "truncate": 45, "prlimit64": 261},
            **{"shmget": 194, "shmat": 196, "shmctl": 195, "semget": 190, "semop": 193, "semctl": 191},
            **{"msgget": 186, "msgsnd": 189, "msgrcv": 188, "msgctl": 187, "semtimedop": 192, "mq_open": 180},
        },
    ),
}
"""The architecture's audit number (<linux/audit.h>) and the numbers of its system calls."""

_REFUSED = (
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("add_key", "request_key", "keyctl", "bpf", "perf_event_open", "userfaultfd"),
)

_SHARED = (
    *("shmget", "shmat", "shmctl", "semget", "semop", "semctl", "semtimedop"),
    *("msgget", "msgsnd", "msgrcv", "msgctl", "mq_open"),
)


def seccomp_filter(
    families: Iterable[int], *, namespaces: bool = True, truncate: bool = True
) -> bytes | None:
    """Return the filter; None if the machine's system calls are not known here.

    Args:
        families: The families of sockets that a program may open.
        namespaces: Whether namespaces separate it from other programs. If not, it gets no pairs of Unix
            datagram sockets, which can send to any other one, no System V objects and message queues, which
            all programs of a user share, and cannot set limits of other processes.
        truncate: Whether it may shorten a file by its path, which Landlock does not control before Linux 6.2.
    """
    machine = _MACHINES.get(platform.machine()) if sys.maxsize > 1 << 32 else None
    if machine is None:
        return None
    architecture, numbers = machine
    steps = [_step(_LOAD, _ARCHITECTURE), _step(_EQUAL, architecture, 1, 0), _refuse(errno.EPERM)]
    steps.append(_step(_LOAD, _NUMBER))
    if platform.machine() == "x86_64":  # x32: the same architecture with other numbers
        steps += [_step(_AT_LEAST, 0x40000000, 0, 1), _refuse(errno.ENOSYS)]
    for name in (*_REFUSED, *(() if namespaces else _SHARED), *(() if truncate else ("truncate",))):
        steps += [_step(_EQUAL, numbers[name], 0, 1), _refuse(errno.EPERM)]
    # Its flags are in memory, which no filter can read. C libraries then use clone.
    steps += [_step(_EQUAL, numbers["clone3"], 0, 1), _refuse(errno.ENOSYS)]
    for name in ("clone", "unshare"):
        new_user = [_step(_ANY_BIT, _CLONE_NEWUSER, 0, 1), _refuse(errno.EPERM)]
        steps += _when(numbers[name], 0, new_user)
    steps += _when(numbers["ioctl"], 1, [*_any_of(_TERMINAL_INPUT), _refuse(errno.EPERM)])
    steps += _when(numbers["socket"], 0, [*_none_of(tuple(families)), _refuse(errno.EPERM)])
    if not namespaces:
        steps += _when(numbers["prlimit64"], 0, [_step(_EQUAL, 0, 1, 0), _refuse(errno.EPERM)])
        kind = [_step(_AND, 0xF), _step(_EQUAL, int(socket.SOCK_DGRAM), 0, 1), _refuse(errno.EPERM)]
        steps += _when(numbers["socketpair"], 1, kind)
    steps.append(_step(_RETURN, _ALLOW))
    return b"".join(steps)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _refuse(number: int) -> bytes:
    return _step(_RETURN, _ERROR | number)


def _when(number: int, argument: int, checks: list[bytes]) -> list[bytes]:
    """Return checks of an argument (its lower 32 bits) of one system call."""
    body = [_step(_LOAD, _ARGUMENTS + 8 * argument), *checks, _step(_LOAD, _NUMBER)]
    return [_step(_EQUAL, number, 0, len(body)), *body]


def _any_of(values: tuple[int, ...]) -> list[bytes]:
    """Go on to the next step if a value matches, else behind it."""
    *first, last = values
    jumps = [_step(_EQUAL, value, len(values) - 1 - place, 0) for place, value in enumerate(first)]
    return [*jumps, _step(_EQUAL, last, 0, 1)]


def _none_of(values: tuple[int, ...]) -> list[bytes]:
    """Go on to the next step if no value matches, else behind it."""
    return [_step(_EQUAL, value, len(values) - place, 0) for place, value in enumerate(values)]
