"""The working directory: which paths are in it, and how its files are opened.

A path is first resolved with its symbolic links and compared with the root. Then its parts are opened one
after the other from the root's own descriptor, and a part that is a link is refused. So if a part is
replaced by a link between the two steps, the call fails, and nothing outside is touched. Within one call
nothing is opened by its path again.
"""

# Pathlib does not support descriptors, and it normalises paths.
# ruff: noqa: PTH116, PTH118, PTH120, PTH206
from __future__ import annotations

import difflib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyagent import ToolError

from ._git import completes_repository, configured_paths, is_git, is_repository, is_repository_path
from ._names import parse_path, show_path
from ._places import Places, known_places
from ._versions import Parts, SeenVersions, identity

__all__ = ["MissingError", "Parts", "Root", "SecretError", "read_up_to"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_SHOWN = 1_000  # characters of a path in a message
_SIMILAR = 500  # names that are compared to suggest another one


class Root:
    """A folder to which all paths are confined.

    Args:
        folder: The folder; the current working directory if None.
        places: Returns the protected paths.
    """

    def __init__(self, folder: str | Path | None = None, places: Callable[[], Places] | None = None) -> None:
        self.path = os.path.realpath(folder if folder is not None else Path.cwd())
        status = os.stat(self.path)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.path)
        self._identity = identity(status)
        self.places = places or (lambda: known_places(self.path))
        self.changing = threading.Lock()  # held from reading a file to replacing it
        self.seen = SeenVersions()

    # ---- paths --------------------------------------------------------------------------------------

    def locate(self, path: str, *, write: bool = False) -> Parts:
        """Resolve a path and return its parts below the root.

        Raises:
            ToolError: The path is invalid, outside the root, or protected.
        """
        path = parse_path(path)
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
        if write and (any(map(is_git, parts)) or is_repository_path(self.path)):
            raise _protected(repr(path), "it belongs to Git")
        return parts

    def _check_text(self, real: str, path: str, write: bool) -> None:
        """Compare paths as text, because they may not exist yet. Existing files are checked when opened."""
        folded = os.path.join(real, "").casefold()
        places = self.places()
        if _lies_in(folded, places.secret):
            raise _secret(repr(path))
        if write and _lies_in(folded, places.fixed):
            raise _protected(repr(path), _CODE)
        if write and _lies_in(folded, _named_by_git(os.path.dirname(real))):
            raise _protected(repr(path), _CONFIGURED)

    @staticmethod
    def show(parts: Parts) -> str:
        """Return a path below the root in the form that models read and write."""
        return show_path("/".join(parts)) or "."

    @classmethod
    def name(cls, parts: Parts) -> str:
        """Return a path below the root in quotes, for a message."""
        shown = cls.show(parts)
        if len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN]}…"
        return shown if shown.startswith('"') else f"'{shown}'"

    def folders(self) -> set[tuple[int, int]]:
        """Return the device and inode of each secret folder."""
        return _identities(self.places().secret)

    # ---- opening ------------------------------------------------------------------------------------

    @contextmanager
    def folder(self, parts: Parts, *, writing: str | None = None, create: bool = False) -> Iterator[int]:
        """Open a folder below the root, and yield its descriptor.

        Args:
            parts: The parts of the path, from `locate`.
            writing: The name of a file that will be written in the folder.
            create: Whether to create missing folders.
        """
        places = self.places()
        secret = _identities(places.secret)
        fixed = _identities(places.fixed) if writing is not None else set()
        git = _identities(_named_by_git(os.path.join(self.path, *parts))) if writing is not None else set()
        descriptor = os.open(self.path, _FOLDER)
        try:
            status = os.fstat(descriptor)
            if identity(status) != self._identity:
                raise ToolError("The working directory was replaced by another one, so nothing was opened.")
            for number in range(len(parts) + 1):
                here = identity(os.fstat(descriptor))
                if here in secret:
                    raise _secret(self.name(parts[:number]))
                if here in fixed:
                    raise _protected(self.name(parts[:number]), _CODE)
                if here in git:
                    raise _protected(self.name(parts[:number]), _CONFIGURED)
                if writing is not None:
                    self._check_git(descriptor, (*parts, writing), number)
                if number < len(parts):
                    following = self._enter(descriptor, parts[: number + 1], create)
                    os.close(descriptor)
                    descriptor = following
            yield descriptor
        finally:
            os.close(descriptor)

    def _check_git(self, folder: int, parts: Parts, number: int) -> None:
        """Refuse to write into a Git repository, or to turn a folder of the path into one."""
        if is_repository(folder):
            raise _protected(self.name(parts[:number]), "it is a Git repository's own data")
        if completes_repository(folder, parts[number]):
            raise ToolError(
                f"{self.name(parts)} was not written: with it, {self.name(parts[:number])} would be a Git "
                "repository, whose configuration and hooks can run commands. Ask the user to do it."
            )

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
                    pass  # another program made it at the same time
            except OSError as error:
                raise self.explain(error, parts, above) from None
        raise ToolError(f"{self.name(parts)} could not be created.")

    @contextmanager
    def file(self, parts: Parts, *, write: bool = False) -> Iterator[int]:
        """Open a regular file for reading; with `write`, refuse one that must not be replaced."""
        with self.parent(parts, write=write) as above:
            descriptor = self.open_in(above, parts)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def open_in(self, above: int, parts: Parts) -> int:
        """Open a regular file in its folder. Links, devices, pipes and sockets are refused."""
        try:
            before = os.stat(parts[-1], dir_fd=above, follow_symlinks=False)
            self.check_regular(before, parts)  # opening a device can have effects
            descriptor = os.open(parts[-1], _READ, dir_fd=above)
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
    def parent(self, parts: Parts, *, write: bool = False, create: bool = False) -> Iterator[int]:
        """Open the folder of a file, and yield its descriptor. See `folder`."""
        if not parts:
            raise ToolError("'.' is a directory, not a file.")
        with self.folder(parts[:-1], writing=parts[-1] if write else None, create=create) as above:
            yield above

    def check_regular(self, status: os.stat_result, parts: Parts) -> None:
        """Raise `ToolError` if a path is not a regular file."""
        mode = status.st_mode
        if stat.S_ISREG(mode):
            return
        if stat.S_ISDIR(mode):
            raise ToolError(f"{self.name(parts)} is a directory, not a file. `list` shows its content.")
        if stat.S_ISLNK(mode):
            raise _replaced_by_link(self.name(parts))
        raise ToolError(f"{self.name(parts)} is a device, pipe or socket, so it was not opened.")

    def check_replaceable(self, above: int, parts: Parts) -> None:
        """Raise `ToolError` if a file in a folder must not be replaced."""
        try:
            status = os.stat(parts[-1], dir_fd=above, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self.explain(error, parts, above) from None
        self.check_regular(status, parts)
        places = self.places()
        if identity(status) in _identities(places.fixed):
            raise _protected(self.name(parts), _CODE)
        if identity(status) in _identities(_named_by_git(os.path.join(self.path, *parts[:-1]))):
            raise _protected(self.name(parts), _CONFIGURED)
        if not status.st_mode & 0o222:
            raise ToolError(f"{self.name(parts)} is read-only, so it was not changed.")

    # ---- error messages -----------------------------------------------------------------------------

    def _missing(self, above: int, parts: Parts) -> ToolError:
        similar = []
        try:
            with os.scandir(above) as entries:
                names = [entry.name for entry, _ in zip(entries, range(_SIMILAR), strict=False)]
            similar = difflib.get_close_matches(parts[-1], names, n=3, cutoff=0.6)
        except OSError:
            pass  # unreadable folder: no suggestions
        meant = " or ".join(self.name((*parts[:-1], name)) for name in similar)
        return MissingError(
            f"There is no {self.name(parts)} in the working directory."
            + (f" Did you mean {meant}?" if meant else "")
        )

    def explain(self, error: OSError, parts: Parts, above: int | None = None) -> ToolError:
        """Convert an error of the operating system to a `ToolError` for the model."""
        if above is not None and error.errno == errno.ENOENT:
            return self._missing(above, parts)
        shown = self.name(parts)
        if above is not None and error.errno in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR):
            try:
                mode = os.stat(parts[-1], dir_fd=above, follow_symlinks=False).st_mode
            except OSError:
                mode = 0
            if stat.S_ISLNK(mode) or error.errno != errno.ENOTDIR:
                return _replaced_by_link(shown)
            return ToolError(f"{shown} is not a directory.")
        return ToolError(f"{shown}: {error.strerror or error}.")


class SecretError(ToolError):
    """The path is part of tinyagent's own configuration."""


class MissingError(ToolError):
    """The file or folder does not exist."""


_CODE = "tinyagent loads it as code"
_CONFIGURED = "Git's configuration names it"


def _named_by_git(folder: str) -> tuple[str, ...]:
    """Return the real paths in Git's configuration for a folder."""
    return tuple(sorted({os.path.realpath(path) for path in configured_paths(folder)}))


def _lies_in(folded: str, places: tuple[str, ...]) -> bool:
    return any(folded.startswith(os.path.join(place, "").casefold()) for place in places)


def _secret(path: str) -> SecretError:
    return SecretError(
        f"{path} has tinyagent's own configuration and keys, which no tool may read or change."
    )


def _protected(path: str, why: str) -> ToolError:
    return ToolError(f"{path} is protected: {why}, so it may be read but not written. Ask the user to do it.")


def _replaced_by_link(path: str) -> ToolError:
    return ToolError(f"{path} was replaced by a symbolic link while it was being opened, so it was not.")


def read_up_to(descriptor: int, size: int) -> bytes:
    """Read this number of bytes; fewer only at the end of the file."""
    pieces = []
    while size > 0 and (piece := os.read(descriptor, min(size, 1 << 20))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _identities(paths: tuple[str, ...]) -> set[tuple[int, int]]:
    found = set()
    for path in paths:
        try:
            found.add(identity(os.stat(path)))
        except OSError:
            pass  # it does not exist (yet)
    return found
