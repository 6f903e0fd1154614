"""Find, open and change the files of sessions. Only a command that needs an older session imports this."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from tinyagent._jsonl.lines import is_torn
from tinyagent.agent_types import AgentMessage
from tinyagent.errors import RecordError, TinyAgentError
from tinyagent.text_files import MAX_RECORD_BYTES, read_descriptor
from tinyagent_cli.exit_codes import InputError
from tinyagent_cli.terminal.hints import suggestion
from tinyagent_cli.terminal.sanitise import one_line

from .files import NAMED, SUFFIX, create_file, created_now, is_current, month, open_folder, try_lock, unlock
from .session import (
    FORBIDDEN,
    Header,
    Session,
    check_name,
    end_of,
    messages_of,
    open_to_read,
    read_header,
    session_of,
)

__all__ = ["SessionBusyError", "SessionStore"]

_SHORTEST_ID = 4
"""Digits of an id that a user must type at least."""

_WAIT_S = 3.0
"""Seconds to wait for another process that writes the session, such as the command before it in a pipe."""


class SessionBusyError(TinyAgentError):
    """Another process writes the session."""

    kind = "session_busy"


class Opened(NamedTuple):
    """A session that is open for writing.

    Attributes:
        header: None for a new session, whose file is empty.
        end: How the last run ended, if it has no answer.
    """

    descriptor: int
    path: Path
    header: Header | None
    messages: list[AgentMessage]
    end: str | None


class SessionStore:
    """The sessions in a directory.

    Args:
        directory: The directory; it need not exist.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    # ---- finding ------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Session]:
        """Iterate over the sessions in any order. Links, and what is no session file, are left out."""
        try:
            folders = [entry for entry in os.scandir(self.directory) if entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise InputError(f"Cannot read {self.directory}: {error.strerror}.") from None
        for folder in folders:
            if folder.name.startswith("."):
                continue
            try:
                entries = list(os.scandir(folder.path))
            except OSError:
                continue
            for entry in entries:
                session = session_of(Path(entry.path), named=folder.name == NAMED)
                if session is not None:
                    yield session

    def newest_first(self) -> list[Session]:
        """Return all sessions, the last used one first."""
        return sorted(self, key=lambda session: session.used_ns, reverse=True)

    def named(self, name: str) -> Session | None:
        """Return the session of this name; None if there is no such session."""
        return session_of(self._named_path(name), named=True)

    def find(self, text: str) -> Session:
        """Return the session with this name, or with an id that begins with `text`.

        Raises:
            InputError: There is no such session, or more than one.
        """
        found = self.lookup(text)
        if found is None:
            meant = suggestion(text, [session.name for session in self if session.name])
            raise InputError(
                f"There is no session {one_line(text, 60)!r}.{meant}",
                hint="All sessions: tinyagent sessions list",
            )
        return found

    def lookup(self, text: str) -> Session | None:
        """Return the session that `find` returns, or None if there is no such session.

        Raises:
            InputError: More than one id begins with `text`.
        """
        if not set(text) & FORBIDDEN and text.strip(". "):
            named = self.named(text)
            if named is not None:
                return named
        prefix = text.lower()
        if len(prefix) < _SHORTEST_ID or set(prefix) - set("0123456789abcdef"):
            return None
        matching = [session for session in self if session.id.startswith(prefix)]
        if len(matching) > 1:
            raise InputError(
                f"{len(matching)} sessions have an id that begins with {prefix!r}.",
                hint="Type more digits of it. All ids: tinyagent sessions list --json",
            )
        return matching[0] if matching else None

    def last_of(self, folder: str) -> Session:
        """Return the session that was last used in this working folder.

        Raises:
            InputError: No session was.
        """
        for session in self.newest_first():
            header = read_header(session.path)
            if header is not None and header.cwd == folder:
                return session
        raise InputError(
            f"There is no session of this folder ({folder}).",
            hint="All sessions: tinyagent sessions list   Continue one of them: tinyagent run --session ID",
        )

    def _named_path(self, name: str) -> Path:
        return self.directory / NAMED / (name + SUFFIX)

    # ---- reading ------------------------------------------------------------------------------------

    def read(self, session: Session) -> bytes:
        """Return the content of a session file.

        Raises:
            InputError: It cannot be read.
        """
        try:
            with open_to_read(session.path) as file:
                return read_descriptor(
                    file.fileno(), limit=MAX_RECORD_BYTES, name=str(session.path), error=InputError
                )
        except OSError as error:
            raise InputError(f"Cannot read {session.path}: {error.strerror}.") from None

    def messages(self, session: Session, *, whole: bool = False) -> list[AgentMessage]:
        """Return the conversation of a session; a last line that is being written is left out.

        Args:
            session: The session.
            whole: Whether the messages that a summary has replaced are returned, and not the summary.

        Raises:
            TinyAgentError: It cannot be read, or is no record.
        """
        return messages_of(self.read(session), session.label, whole=whole)

    # ---- writing ------------------------------------------------------------------------------------

    def open(self, session: Session) -> Opened:
        """Open a session to continue it. The file is locked, and a torn last line is removed.

        Raises:
            SessionBusyError: Another process writes it.
            TinyAgentError: It cannot be opened or read.
        """
        return self._open_path(session.path, session.label)

    def open_named(self, name: str) -> Opened:
        """Open the session of this name as `open` does, or create it. The errors are those of `open`."""
        path = self._named_path(name)
        while True:
            try:
                return Opened(create_file(self.directory, NAMED, name), path, None, [], None)
            except FileExistsError:
                pass
            except OSError as error:
                raise InputError(
                    f"The session {name!r} cannot be created in {self.directory}: {error.strerror}."
                ) from None
            if os.path.lexists(path):
                return self._open_path(path, name)

    def _open_path(self, path: Path, label: str) -> Opened:
        descriptor = self._lock(path, label)
        try:
            os.fchmod(descriptor, 0o600)
            data = read_descriptor(descriptor, limit=MAX_RECORD_BYTES, name=str(path), error=InputError)
            data = _repaired(descriptor, data)
            if not data:
                return Opened(descriptor, path, None, [], None)
            header = read_header(path)
            if header is None:
                raise RecordError(f"{path} is not a session: its first line is no header.")
            return Opened(descriptor, path, header, messages_of(data, label), end_of(data))
        except OSError as error:
            unlock(descriptor)
            raise InputError(f"Cannot write to {path}: {error.strerror}.") from None
        except BaseException:
            unlock(descriptor)
            raise

    def _lock(self, path: Path, label: str, wait_s: float = _WAIT_S) -> int:
        """Open a session file and lock it; after `wait_s` seconds it counts as busy."""
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        end = time.monotonic() + wait_s
        while True:
            try:
                folder = open_folder(self.directory, path.parent.name)
                try:
                    descriptor = os.open(path.name, flags, dir_fd=folder)
                finally:
                    os.close(folder)
            except OSError as error:
                raise InputError(f"The session {label!r} cannot be opened: {error.strerror}.") from None
            found, owners = os.fstat(descriptor), (os.geteuid(), self.directory.stat().st_uid)
            if not stat.S_ISREG(found.st_mode) or found.st_uid not in owners:
                os.close(descriptor)
                raise InputError(f"{path} is not a file of yours, so it is not used.")
            if try_lock(descriptor):
                if is_current(descriptor, path):
                    return descriptor
                unlock(descriptor)  # it was renamed or removed meanwhile
                continue
            os.close(descriptor)
            if time.monotonic() >= end:
                raise SessionBusyError(
                    f"The session {label!r} is in use: another process writes it.",
                    hint=f"Wait until it ends, or continue a copy: tinyagent sessions fork {label}",
                )
            time.sleep(0.05)

    def rename(self, session: Session, name: str) -> Path:
        """Give a session a name. It may be in use meanwhile. Return its new path.

        Raises:
            InputError: The name is taken or invalid, or the file cannot be renamed.
        """
        path = self._named_path(check_name(name))
        with self._reserved(name):
            try:
                session.path.replace(path)
            except OSError as error:
                path.unlink(missing_ok=True)
                raise InputError(f"Cannot rename {session.path}: {error.strerror}.") from None
        return path

    def fork(self, session: Session, name: str | None, folder: str) -> tuple[str, Path]:
        """Copy a session under a new id. Return the id and the path.

        Args:
            session: The session; it may be in use.
            name: The name of the copy, if it gets one.
            folder: The working folder of the copy.

        Raises:
            TinyAgentError: It cannot be read, the name is taken or invalid, or the copy cannot be written.
        """
        data = self.read(session)
        whole = data[: data.rfind(b"\n") + 1]
        first, _, rest = whole.partition(b"\n")
        try:
            header = msgspec.json.decode(first, type=dict[str, object])
        except (msgspec.DecodeError, UnicodeError):
            raise RecordError(f"{session.path} is not a session: its first line is no header.") from None
        new_id = os.urandom(16).hex()
        header |= {"id": new_id, "created": created_now(), "cwd": folder, "parent": header.get("id", "")}
        place, file_name = (month(), new_id) if name is None else (NAMED, check_name(name))
        path = self.directory / place / (file_name + SUFFIX)
        try:
            descriptor = create_file(self.directory, place, file_name)
        except FileExistsError:
            raise _taken(file_name) from None
        except OSError as error:
            raise InputError(f"Cannot write to {path}: {error.strerror}.") from None
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(msgspec.json.encode(header) + b"\n" + rest)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise InputError(f"Cannot write to {path}: {error.strerror}.") from None
        finally:
            unlock(descriptor)
        return new_id, path

    def remove(self, session: Session) -> None:
        """Remove a session.

        Raises:
            SessionBusyError: A process writes it.
            InputError: It cannot be removed.
        """
        descriptor = self._lock(session.path, session.label, wait_s=0)
        try:
            session.path.unlink()
        except OSError as error:
            raise InputError(f"Cannot remove {session.path}: {error.strerror}.") from None
        finally:
            unlock(descriptor)
        self._remove_empty(session.path.parent)

    def prune(self, max_days: int, max_count: int, now: float) -> None:
        """Remove the unnamed sessions that are too old or too many, except those in use.

        Args:
            max_days: Days since the last use; 0 for no limit.
            max_count: The most unnamed sessions; 0 for no limit.
            now: The time in seconds since 1970.
        """
        unnamed = [session for session in self.newest_first() if session.name is None]
        for place, session in enumerate(unnamed):
            too_old = max_days > 0 and now - session.used_ns / 1e9 > max_days * 86400
            if too_old or 0 < max_count <= place:
                try:
                    self.remove(session)
                except TinyAgentError:
                    pass  # in use, or removed by another run

    @contextmanager
    def _reserved(self, name: str) -> Iterator[None]:
        """Lock the file of a new name, until the file of the session takes its place."""
        try:
            descriptor = create_file(self.directory, NAMED, name)
        except FileExistsError:
            raise _taken(name) from None
        except OSError as error:
            raise InputError(
                f"The name {name!r} cannot be used in {self.directory}: {error.strerror}."
            ) from None
        try:
            yield
        finally:
            unlock(descriptor)

    @staticmethod
    def _remove_empty(folder: Path) -> None:
        try:
            folder.rmdir()
        except OSError:
            pass  # there are other sessions in it


def _taken(name: str) -> InputError:
    return InputError(
        f"A session with the name {name!r} exists.", hint="Choose another name, or remove that session first."
    )


def _repaired(descriptor: int, data: bytes) -> bytes:
    """Remove a torn last line from the file, or end a complete one. Return the content."""
    end = data.rfind(b"\n") + 1
    last = data[end:]
    if not last:
        return data
    if not is_torn(last) or _is_json(last):
        os.write(descriptor, b"\n")
        return data + b"\n"
    os.ftruncate(descriptor, end)
    return data[:end]


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeError):
        return False
    return True
