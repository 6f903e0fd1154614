"""Confine this process with Landlock, and become a program: `python -I -S launcher.py RULES PROGRAM ...`.

RULES is a JSON object, see `Rules`. If any step fails, the program is not started and the exit code is 126.

Landlock has no denials: a rule permits something below a folder. So a folder in which something is excluded
gets no rule itself. Each of its entries gets one, and new entries directly in it get none.

This file is a script without a package, because every start of a program runs it. The numbers are those of
<linux/landlock.h>, <linux/prctl.h> and <linux/seccomp.h>.
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypedDict

    class Rules(TypedDict):
        """What the program may do. All paths are absolute and free of links.

        Attributes:
            readable: Folders to read and run programs from.
            writable: Folders to read and change.
            hidden: What is excluded from both.
            protected: What is excluded from `writable`.
            visible: What may be read in any case.
            devices: Devices to read and write.
            network: Whether TCP is permitted.
            filter: The seccomp filter in hexadecimal; empty for none.
        """

        readable: Sequence[str]
        writable: Sequence[str]
        hidden: Sequence[str]
        protected: Sequence[str]
        visible: Sequence[str]
        devices: Sequence[str]
        network: bool
        filter: str


MOST_RULES = 50_000

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK, _REFER, _TRUNCATE, _IOCTL_DEV = 1 << 6, 1 << 11, 1 << 13, 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_FILE = _EXECUTE | _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV
"""The rights that a rule about a file may have."""

_PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 24, 38, 2
KEPT_CAPABILITIES = {"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_FOWNER": 3, "CAP_FSETID": 4}
"""What root keeps: to work with files of other users, as in containers."""

_libc = ctypes.CDLL(None, use_errno=True)


def landlock_version() -> int:
    """Return the version of the kernel's Landlock interface; 0 without Landlock."""
    try:
        version: int = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    except (OSError, AttributeError):
        return 0
    return max(version, 0)


def confine(rules: Rules) -> None:
    """Confine this thread, and so the program that it becomes.

    Raises:
        OSError: The kernel refused a step.
    """
    version = landlock_version()
    if version < 1:
        raise OSError("this kernel has no Landlock")
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _drop_capabilities()
    ruleset = _Ruleset(version, network=rules["network"])
    hidden = frozenset(rules["hidden"])
    for path in rules["readable"]:
        # The names in all folders can be listed; a right for a folder includes everything below it.
        ruleset.permit(path, _READ_DIR, follow=True)
        ruleset.permit_below(path, _READ, hidden)
    for path in rules["writable"]:
        ruleset.permit(path, _READ_DIR)
        ruleset.permit_below(path, _READ, hidden)
        ruleset.permit_below(path, ruleset.writing, hidden | frozenset(rules["protected"]))
    for path in rules["visible"]:
        ruleset.permit(path, _READ, follow=True)
    for path in rules["devices"]:
        ruleset.permit(path, _READ_FILE | _WRITE_FILE, follow=True)
    ruleset.restrict()
    if rules["filter"]:
        _filter_system_calls(bytes.fromhex(rules["filter"]))


class _Ruleset:
    def __init__(self, version: int, *, network: bool) -> None:
        self.handled = (1 << 13) - 1
        for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
            if version >= since:
                self.handled |= right
        self.writing = self.handled & ~(_MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV)
        ports = 0 if network or version < 4 else 0b11  # to bind and to connect TCP
        scopes = 0b11 if version >= 6 else 0  # abstract sockets, and signals
        size = 8 if version < 4 else 16 if version < 6 else 24
        attributes = struct.pack("=QQQ", self.handled, ports, scopes)[:size]
        self._descriptor = _checked(
            _libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0), "create_ruleset"
        )
        self._count = 0

    def permit(self, path: str, rights: int, *, follow: bool = False) -> None:
        """Permit `rights` for a file, or for a folder and everything in it."""
        with _Opened(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW)) as descriptor:
            if descriptor is not None:
                self._add(descriptor, rights, path)

    def permit_below(
        self, path: str, rights: int, excluded: frozenset[str], folder: int | None = None
    ) -> None:
        """Permit `rights` for everything in a folder except what is excluded.

        Entries are opened relative to their folder, so that no link that replaces a folder is followed.
        """
        if path in excluded:
            return
        start = path.rstrip("/") + "/"
        name = path if folder is None else path.rpartition("/")[2]
        if not any(other.startswith(start) for other in excluded):
            with _Opened(name, os.O_PATH | os.O_NOFOLLOW, folder) as descriptor:
                if descriptor is not None:
                    self._add(descriptor, rights, path)
            return
        with _Opened(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, folder) as descriptor:
            if descriptor is not None:
                for entry in os.listdir(descriptor):  # noqa: PTH208 - pathlib takes long to import
                    self.permit_below(start + entry, rights, excluded, descriptor)

    def _add(self, descriptor: int, rights: int, path: str) -> None:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISLNK(mode):
            return
        rights &= self.handled if stat.S_ISDIR(mode) else _FILE & self.handled
        if not rights:
            return
        self._count += 1
        if self._count > MOST_RULES:
            raise OSError(f"more than {MOST_RULES:,} rules are needed for {path}")
        rule = struct.pack("=Qi", rights, descriptor)
        _checked(_libc.syscall(_ADD_RULE, self._descriptor, _PATH_BENEATH, rule, 0), f"a rule for {path}")

    def restrict(self) -> None:
        _checked(_libc.syscall(_RESTRICT_SELF, self._descriptor, 0), "restrict_self")
        os.close(self._descriptor)


class _Opened:
    """A descriptor for the time of a `with` block; None if the file cannot be opened."""

    def __init__(self, path: str, flags: int, folder: int | None = None) -> None:
        try:
            self._descriptor: int | None = os.open(path, flags | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            self._descriptor = None  # removed, or the program may not read it either

    def __enter__(self) -> int | None:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def _drop_capabilities() -> None:
    """Remove capabilities from those that root gets when it starts a program."""
    if os.geteuid() != 0:
        return
    for capability in range(64):
        if capability not in KEPT_CAPABILITIES.values():
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for numbers that do not exist


def _filter_system_calls(program: bytes) -> None:
    code = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    _checked(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, described, 0, 0), "seccomp")


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def main(rules: str, program: list[str]) -> None:
    """Confine this process and start the program."""
    try:
        confine(json.loads(rules))
    except (OSError, ValueError, KeyError) as error:
        os.write(2, f"tinyagent: the sandbox could not be started: {error}\n".encode())
        os._exit(126)
    try:
        os.execvp(program[0], program)
    except OSError as error:
        os.write(2, f"{program[0]}: {error.strerror}\n".encode())
    os._exit(127)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
