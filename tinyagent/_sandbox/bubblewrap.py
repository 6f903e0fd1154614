"""The arguments of `bwrap` for a layout."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .launcher import KEPT_CAPABILITIES
from .layout import Layout
from .places import is_inside, sockets

__all__ = ["bubblewrap_arguments", "user_namespaces"]

_SETTINGS = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/acpi", "/proc/scsi")
"""What root could change in `/proc` of a new namespace."""

_RESOLVER = "/etc/resolv.conf"


def bubblewrap_arguments(
    layout: Layout, temporary: str, *, namespaces: Sequence[str], die: bool
) -> list[str]:
    """Return the arguments between `bwrap` and the program.

    Args:
        layout: The paths.
        temporary: The folder that becomes `/tmp`.
        namespaces: Further arguments that this machine needs, see `user_namespaces`.
        die: Whether the kernel ends everything as soon as `bwrap` ends.
    """
    arguments = [*namespaces, "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if not layout.network:
        arguments.append("--unshare-net")
    if die:
        arguments.append("--die-with-parent")
    if layout.readable is None:
        arguments += ["--ro-bind", "/", "/"]
    else:
        for path in layout.readable:
            arguments += _read_only(path)
        for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):  # often links into /usr
            if os.path.islink(name):  # noqa: PTH114
                arguments += ["--symlink", os.readlink(name), name]  # noqa: PTH115
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    for name in _SETTINGS:
        arguments += ["--ro-bind-try", name, name]
    private = [path for path in ("/run", "/var/run") if os.path.isdir(path) and not os.path.islink(path)]  # noqa: PTH112, PTH114
    for path in private:
        arguments += ["--tmpfs", path]
    arguments += ["--bind", temporary, "/tmp"]
    resolver = os.path.realpath(_RESOLVER)
    if layout.network and any(is_inside(resolver, path) for path in private):
        arguments += _read_only(resolver)
    hidden = _hidden(layout)
    covered = [path for path in layout.visible if any(is_inside(path, other) for other in hidden)]
    for path in layout.visible:
        if path not in covered:  # before the writable folders, which may be in it or around it
            arguments += _read_only(path)
    for path in layout.writable:
        arguments += ["--bind", path, path]
    for path in _held(layout):
        arguments += ["--bind", path, path]
    for path in sorted({*layout.protected} - {*layout.hidden}):
        arguments += ["--ro-bind-try", path, path]  # another program may have removed it meanwhile
    for path in hidden:
        arguments += _empty(path)
    for path in covered:
        arguments += _read_only(path)
    for path in hidden:  # last, because a place for what is visible is created in it
        if os.path.isdir(path):  # noqa: PTH112
            arguments += ["--remount-ro", path]
    return arguments


def user_namespaces(uid: int) -> list[list[str]]:
    """Return the ways to start `bwrap` that a user may have, the best first."""
    unprivileged = ["--unshare-user"]
    if uid != 0:
        return [[*unprivileged, "--disable-userns"], unprivileged]
    # Files of other users, as in containers, stay those of their users without a namespace.
    kept = [word for name in KEPT_CAPABILITIES for word in ("--cap-add", name)]
    return [["--cap-drop", "ALL", *kept], unprivileged]


def _held(layout: Layout) -> list[str]:
    """Return the folders between writable folders and what is protected in them.

    As mounts of their own they cannot be renamed, so nothing can take the place of a protected folder.
    """
    return [folder for folder in layout.split_folders() if folder not in layout.writable]


def _hidden(layout: Layout) -> list[str]:
    """Return what must not be seen, sockets included, without what is inside of another hidden folder."""
    folders = ["/"] if layout.readable is None else [*layout.readable, *layout.writable]
    private = ("/run", "/var/run", "/tmp")
    paths = set(layout.hidden)
    for path in sockets():
        if not any(is_inside(path, place) for place in private) or any(
            is_inside(path, place) for place in layout.writable
        ):
            paths.add(path)
    seen = [path for path in sorted(paths) if any(is_inside(path, folder) for folder in folders)]
    return [path for path in seen if not any(is_inside(path, other) for other in seen if other != path)]


def _read_only(path: str) -> list[str]:
    return ["--ro-bind", path, path]


def _empty(path: str) -> list[str]:
    if os.path.isdir(path):  # noqa: PTH112
        return ["--perms", "0755", "--tmpfs", path]
    return ["--ro-bind", "/dev/null", path]
