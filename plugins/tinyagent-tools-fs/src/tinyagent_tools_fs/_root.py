"""The working directory, and the only ways into it.

A path is first resolved, symbolic links and all, and compared with the root. What is then opened is not
the path but its parts, one after the other from the root's own descriptor, each refused if it is a
link. So whoever swaps a part for a link between the two gets an error, and nothing outside is touched.
Within one call nothing is ever opened by its path again.
"""

# Pathlib has no descriptors, and joins away what matters here.
# ruff: noqa: PTH116, PTH118, PTH206
from __future__ import annotations

import difflib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tinyagent import ToolError

from ._places import Places, is_git, known_places

__all__ = ["Found", "Root", "printable"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHOWN = 1_000  # characters of a path in a message
_REPOSITORY = ("HEAD", "objects", "refs")

Parts = tuple[str, ...]


def printable(name: str) -> str:
    """A name with what is not UTF-8 in it shown, not raised."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Found:
    """The content of a file, and which file it was."""

    data: bytes
    status: os.stat_result


class Root:
    """A folder that nothing done here gets out of.

    Args:
        folder: The folder; the current working directory if None.
        places: What is protected in it.
    """

    def __init__(self, folder: str | Path | None = None, places: Callable[[], Places] | None = None) -> None:
        self.path = os.path.realpath(folder if folder is not None else Path.cwd())
        status = os.stat(self.path)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.path)
        self._identity = _identity(status)
        self.places = places or (lambda: known_places(self.path))
        self.changing = threading.Lock()  # held from reading a file to replacing it

    # ---- paths --------------------------------------------------------------------------------------

    def locate(self, path: str, *, write: bool = False) -> Parts:
        """The parts below the root that a path leads to, links resolved; `ToolError` if elsewhere."""
        if "\0" in path:
            raise ToolError("A path cannot contain a NUL character.")
        if len(path) > 4_096:
            raise ToolError(f"A path of {len(path):,} characters is too long.")
        try:
            real = os.path.realpath(os.path.join(self.path, path or "."))
        except (OSError, ValueError) as error:
            raise ToolError(f"{path!r} cannot be resolved: {error}.") from None
        if real != self.path and not real.startswith(os.path.join(self.path, "")):
            raise ToolError(
                f"{path!r} is outside the working directory, so it was not opened. "
                "Use a path inside it, relative to it."
            )
        self._check_text(real, path, write)
        parts = tuple(part for part in real[len(self.path) :].split(os.sep) if part)
        if write and any(map(is_git, parts)):
            raise _protected(path, "it belongs to Git")
        return parts

    def _check_text(self, real: str, path: str, write: bool) -> None:
        """Compare as text, for what does not exist yet; what does is compared as itself when it is opened."""
        folded = os.path.join(real, "").casefold()
        places = self.places()
        if any(folded.startswith(os.path.join(place, "").casefold()) for place in places.secret):
            raise _secret(path)
        if write and any(folded.startswith(os.path.join(place, "").casefold()) for place in places.fixed):
            raise _protected(path, "tinyagent loads it as code")

    @staticmethod
    def show(parts: Parts) -> str:
        """A path below the root, as a model is told."""
        shown = printable("/".join(parts)) or "."
        return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"

    def folders(self) -> set[tuple[int, int]]:
        """Which folders are secret, as device and inode."""
        return _identities(self.places().secret)

    # ---- opening ------------------------------------------------------------------------------------

    @contextmanager
    def folder(self, parts: Parts, *, write: bool = False, create: bool = False) -> Iterator[int]:
        """The descriptor of a folder below the root."""
        places = self.places()
        secret = _identities(places.secret)
        fixed = _identities(places.fixed) if write else set()
        descriptor = os.open(self.path, _FOLDER)
        try:
            status = os.fstat(descriptor)
            if _identity(status) != self._identity:
                raise ToolError("The working directory was replaced by another one, so nothing was opened.")
            for number in range(len(parts) + 1):
                identity = _identity(os.fstat(descriptor))
                if identity in secret:
                    raise _secret(self.show(parts[:number]))
                if identity in fixed:
                    raise _protected(self.show(parts[:number]), "tinyagent loads it as code")
                if write and _is_repository(descriptor):
                    raise _protected(self.show(parts[:number]), "it is a Git repository's own data")
                if number < len(parts):
                    following = self._enter(descriptor, parts[: number + 1], create)
                    os.close(descriptor)
                    descriptor = following
            yield descriptor
        finally:
            os.close(descriptor)

    def _enter(self, above: int, parts: Parts, create: bool) -> int:
        name = parts[-1]
        for _ in range(2):
            try:
                return os.open(name, _FOLDER, dir_fd=above)
            except FileNotFoundError:
                if not create:
                    raise self._missing(above, parts) from None
                try:
                    os.mkdir(name, dir_fd=above)
                except FileExistsError:
                    pass  # somebody else was as quick
            except OSError as error:
                raise self.explain(error, parts, above) from None
        raise ToolError(f"{self.show(parts)!r} could not be created.")

    @contextmanager
    def file(self, parts: Parts, *, write: bool = False) -> Iterator[int]:
        """The descriptor of a regular file, for reading; `write` says that it is about to be replaced."""
        with self._parent(parts, write=write) as (above, name):
            descriptor = self.open_in(above, parts, name)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def open_in(self, above: int, parts: Parts, name: str) -> int:
        """Open a regular file of a folder, and nothing that only looks like one."""
        try:
            before = os.stat(name, dir_fd=above, follow_symlinks=False)
            self.check_regular(before, parts)  # opening a device can already do something
            descriptor = os.open(name, _READ, dir_fd=above)
        except FileNotFoundError:
            raise self._missing(above, parts) from None
        except OSError as error:
            raise self.explain(error, parts, above) from None
        try:
            self.check_regular(os.fstat(descriptor), parts)
        except ToolError:
            os.close(descriptor)
            raise
        return descriptor

    @contextmanager
    def _parent(
        self, parts: Parts, *, write: bool = False, create: bool = False
    ) -> Iterator[tuple[int, str]]:
        if not parts:
            raise ToolError("'.' is a directory, not a file.")
        with self.folder(parts[:-1], write=write, create=create) as above:
            yield above, parts[-1]

    def check_regular(self, status: os.stat_result, parts: Parts) -> None:
        """Refuse what is not a regular file, in words."""
        mode = status.st_mode
        if stat.S_ISREG(mode):
            return
        if stat.S_ISDIR(mode):
            raise ToolError(f"{self.show(parts)!r} is a directory, not a file. `list` shows what is in it.")
        if stat.S_ISLNK(mode):
            raise _swapped(self.show(parts))
        raise ToolError(f"{self.show(parts)!r} is a device, pipe or socket, so it was not opened.")

    # ---- writing ------------------------------------------------------------------------------------

    def status(self, parts: Parts) -> os.stat_result | None:
        """The status of a file that is about to be written; None if there is none."""
        try:
            with self._parent(parts, write=True) as (above, name):
                return os.stat(name, dir_fd=above, follow_symlinks=False)
        except (FileNotFoundError, _MissingError):
            return None
        except OSError as error:
            raise self.explain(error, parts) from None

    def replace(self, parts: Parts, data: bytes, expected: os.stat_result | None) -> None:
        """Write a file in one step: whoever reads it sees all of the old or all of the new.

        Args:
            parts: Where, from `locate(..., write=True)`.
            data: What.
            expected: The file as it was when it was read, None if there was none; if that has changed
                nothing is written.
        """
        with self._parent(parts, write=True, create=expected is None) as (above, name):
            self._check_target(above, name, parts)
            temporary = f".tinyagent-{secrets.token_hex(8)}.tmp"
            try:
                # A new file gets what the umask leaves; in place of an old one it is private at first.
                mode = 0o666 if expected is None else 0o600
                descriptor = os.open(temporary, _CREATE, mode, dir_fd=above)
                try:
                    _write_all(descriptor, data)
                    if expected is not None:
                        _keep_owner(descriptor, expected)
                        os.fchmod(descriptor, stat.S_IMODE(expected.st_mode))
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                self._check_unchanged(above, name, parts, expected)
                os.rename(temporary, name, src_dir_fd=above, dst_dir_fd=above)
            except OSError as error:
                _remove(temporary, above)
                raise self.explain(error, parts, above) from None
            except BaseException:
                _remove(temporary, above)
                raise

    def _check_target(self, above: int, name: str, parts: Parts) -> None:
        try:
            status = os.stat(name, dir_fd=above, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self.explain(error, parts, above) from None
        self.check_regular(status, parts)
        if _identity(status) in _identities(self.places().fixed):
            raise _protected(self.show(parts), "tinyagent loads it as code")
        if not status.st_mode & 0o222:
            raise ToolError(f"{self.show(parts)!r} is read-only, so it was not changed.")

    def _check_unchanged(self, above: int, name: str, parts: Parts, expected: os.stat_result | None) -> None:
        try:
            now: os.stat_result | None = os.stat(name, dir_fd=above, follow_symlinks=False)
        except FileNotFoundError:
            now = None
        if (now and _version(now)) != (expected and _version(expected)):
            raise ToolError(
                f"{self.show(parts)!r} was changed by something else meanwhile, so nothing was written. "
                "Read it again first."
            )

    # ---- words --------------------------------------------------------------------------------------

    def _missing(self, above: int, parts: Parts) -> ToolError:
        similar = []
        try:
            with os.scandir(above) as entries:
                names = [entry.name for entry, _ in zip(entries, range(5_000), strict=False)]
            similar = difflib.get_close_matches(parts[-1], names, n=3, cutoff=0.6)
        except OSError:
            pass  # it could not be listed: no suggestions
        meant = " or ".join(repr(self.show((*parts[:-1], name))) for name in similar)
        return _MissingError(
            f"There is no {self.show(parts)!r} in the working directory."
            + (f" Did you mean {meant}?" if meant else "")
        )

    def explain(self, error: OSError, parts: Parts, above: int | None = None) -> ToolError:
        """An error of the operating system, as the model is told."""
        if above is not None and error.errno == errno.ENOENT:
            return self._missing(above, parts)
        shown = self.show(parts)
        if above is not None and error.errno in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR):
            try:
                mode = os.stat(parts[-1], dir_fd=above, follow_symlinks=False).st_mode
            except OSError:
                mode = 0
            if stat.S_ISLNK(mode) or error.errno != errno.ENOTDIR:
                return _swapped(shown)
            return ToolError(f"{shown!r} is not a directory.")
        return ToolError(f"{shown!r}: {error.strerror or error}.")


class _MissingError(ToolError):
    """There is no such file or folder."""


def _secret(path: str) -> ToolError:
    return ToolError(
        f"{path!r} holds tinyagent's own configuration and keys, which no tool may see or change."
    )


def _protected(path: str, why: str) -> ToolError:
    return ToolError(
        f"{path!r} is protected: {why}, so it may be read but not written. Ask the user to do it."
    )


def _swapped(path: str) -> ToolError:
    return ToolError(f"{path!r} was replaced by a symbolic link while it was being opened, so it was not.")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _version(status: os.stat_result) -> tuple[int, int, int, int]:
    return (*_identity(status), status.st_size, status.st_mtime_ns)


def _identities(paths: tuple[str, ...]) -> set[tuple[int, int]]:
    found = set()
    for path in paths:
        try:
            found.add(_identity(os.stat(path)))
        except OSError:
            pass  # it does not exist (yet)
    return found


def _is_repository(folder: int) -> bool:
    """A bare repository, or a Git folder of another name: whoever writes its `config` runs commands."""
    for name in _REPOSITORY:
        try:
            os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return False
    return True


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
            pass  # only root may give files away


def _remove(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass  # it was never made
