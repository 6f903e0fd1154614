"""Replace a file atomically, if it is still the one that was read."""

# Pathlib does not support descriptors.
from __future__ import annotations

import os
import secrets
import stat

from tinyagent import ToolError

from ._lock import TEMPORARY, lock_folder, remove_stale
from ._root import MissingError, Parts, Root, read_up_to
from ._versions import version

__all__ = ["replace_file", "status_before"]

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def status_before(root: Root, parts: Parts) -> os.stat_result | None:
    """Return the status of a file before it is written; None if it does not exist."""
    try:
        with root.parent(parts, write=True) as above:
            return os.stat(parts[-1], dir_fd=above, follow_symlinks=False)
    except (FileNotFoundError, MissingError):
        return None
    except OSError as error:
        raise root.explain(error, parts) from None


def replace_file(
    root: Root, parts: Parts, data: bytes, expected: os.stat_result | None, content: bytes | None = None
) -> None:
    """Replace a file atomically.

    Args:
        root: The working directory.
        parts: The parts of the path, from `locate(..., write=True)`.
        data: The new content.
        expected: The status of the file when it was read; None if it did not exist. If the file has changed
            since then, nothing is written.
        content: The content when it was read, to detect changes that do not affect times and size.
    """
    with root.parent(parts, write=True, create=expected is None) as above, lock_folder(above) as locked:
        remove_stale(above, locked)
        root.check_replaceable(above, parts)
        temporary = f"{TEMPORARY}{secrets.token_hex(8)}.tmp"
        try:
            # A new file gets the mode of the umask; a replacement is private until its mode is copied.
            mode = 0o666 if expected is None else 0o600
            descriptor = os.open(temporary, _CREATE, mode, dir_fd=above)
            try:
                _write_all(descriptor, data)
                if expected is not None:
                    _keep_owner(descriptor, expected)
                    os.fchmod(descriptor, stat.S_IMODE(expected.st_mode))
                os.fsync(descriptor)
                _check_unchanged(root, above, parts, expected, content)
                os.rename(temporary, parts[-1], src_dir_fd=above, dst_dir_fd=above)
                written = os.fstat(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            _remove(temporary, above)
            raise root.explain(error, parts, above) from None
        except BaseException:
            _remove(temporary, above)
            raise
    if expected is None or root.seen.is_last(parts, expected) is not False:
        root.seen.add(parts, written)


def _check_unchanged(
    root: Root, above: int, parts: Parts, expected: os.stat_result | None, content: bytes | None
) -> None:
    try:
        now: os.stat_result | None = os.stat(parts[-1], dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        now = None
    same = (now and version(now)) == (expected and version(expected))
    if same and content is not None:
        descriptor = root.open_in(above, parts)
        try:
            same = read_up_to(descriptor, len(content) + 1) == content
        finally:
            os.close(descriptor)
    if not same:
        raise ToolError(
            f"{root.name(parts)} was changed by another program, so nothing was written. Read it again first."
        )


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _keep_owner(descriptor: int, expected: os.stat_result) -> None:
    made = os.fstat(descriptor)
    if (made.st_uid, made.st_gid) != (expected.st_uid, expected.st_gid):
        try:
            os.fchown(descriptor, expected.st_uid, expected.st_gid)
        except OSError:
            pass  # only root may change the owner


def _remove(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass  # it was not created
