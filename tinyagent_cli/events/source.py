"""The source of recorded lines: a file, a session or standard input.

Lines are processed as they arrive, so that a filter in a pipe shows a run while it runs.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tinyagent import jsonl
from tinyagent._jsonl.lines import CHUNK_BYTES, cut_last_line, is_torn, split_lines, whole_lines
from tinyagent.errors import RecordError
from tinyagent.jsonl import Record
from tinyagent.text_files import MAX_RECORD_BYTES
from tinyagent_cli.config.environment import sessions_directory
from tinyagent_cli.exit_codes import InputError
from tinyagent_cli.sessions.files import SUFFIX
from tinyagent_cli.sessions.session import Session, open_to_read
from tinyagent_cli.sessions.store import SessionStore
from tinyagent_cli.terminal.sanitise import one_line

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["Entry", "Source", "open_session_source", "open_source"]


_LATEST = 1 << 53
"""Times in milliseconds from here on are left out; a float cannot have them."""


class Entry(NamedTuple):
    """A line that was read.

    Attributes:
        number: Its number, from 1.
        time: Its time in Unix milliseconds; None for a delta.
        records: The records that it completes.
    """

    number: int
    time: int | None
    records: list[Record]


class _Timed(msgspec.Struct):
    time: int | None = None


class _Watched(io.RawIOBase):
    """A file that limits the length of its lines, and announces each read."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._line_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        source, view = self._source, memoryview(buffer)
        source.before_read()
        try:
            part = os.read(source.descriptor, len(view))
            while not part and source.at_end():
                part = os.read(source.descriptor, len(view))
        except OSError as error:
            raise InputError(f"Cannot read {source.name}: {error.strerror}.") from None
        end = part.rfind(b"\n") + 1
        self._line_bytes = len(part) - end if end else self._line_bytes + len(part)
        if self._line_bytes > MAX_RECORD_BYTES:
            raise InputError(f"{source.name} has a line of more than {MAX_RECORD_BYTES >> 20} MiB.")
        view[: len(part)] = part
        return len(part)


class Source:
    """An open file of lines.

    Args:
        name: The name, for messages.
        descriptor: The file.
        on_warning: Called with a warning if the last line is incomplete.

    Attributes:
        before_read: Called before each read, which may wait, to write what is known so far.
        at_end: Called at the end of the file. It may wait, and returns whether to read again.
    """

    def __init__(self, name: str, descriptor: int, on_warning: Callable[[str], None]) -> None:
        self.name = name
        self.descriptor = descriptor
        self.on_warning = on_warning
        self.before_read: Callable[[], None] = lambda: None
        self.at_end: Callable[[], bool] = lambda: False
        self.reset()

    def reset(self) -> None:
        """Forget what was read, after the file was set to its start."""
        self._file = io.BufferedReader(_Watched(self), CHUNK_BYTES)

    def lines(self) -> Iterator[bytes | str]:
        """Yield each line. Only the last one may have no LF.

        Raises:
            InputError: The file cannot be read, or a line is too long.
        """
        for chunk in whole_lines(self._file):
            complete, last = cut_last_line(chunk)
            if complete:
                yield from split_lines(complete)
            if last:
                yield last

    def records(self) -> Iterator[Record]:
        """Yield the records.

        Raises:
            RecordError: A line is not in the format.
        """
        is_empty = True
        try:
            for record in jsonl.read_records(self._file, on_warning=self._warn_torn):
                is_empty = False
                yield record
        except RecordError as error:
            raise self._named(error) from None
        if is_empty:
            raise self.nothing()

    def entries(
        self, *, updates: bool = True, on_problem: Callable[[RecordError], None] | None = None
    ) -> Iterator[Entry]:
        """Yield the lines with their times.

        Args:
            updates: Whether lines of `message_update` have records.
            on_problem: Called with the error of a line that is not in the format, which is left out.

        Raises:
            RecordError: A line is not in the format, and there is no `on_problem`.
        """
        decoder = jsonl.Decoder(updates=updates)
        for line in self.lines():
            try:
                records = decoder.decode(line)
            except RecordError as error:
                if is_torn(line):
                    self._warn_torn(
                        f"line {decoder.line_number} is incomplete and was left out; "
                        "all lines before it were read"
                    )
                    break
                if on_problem is None:
                    raise self._named(error) from None
                on_problem(self._named(error))
                continue
            yield Entry(decoder.line_number, _time_of(line), records)
        if not decoder.line_number:
            raise self.nothing()
        yield Entry(decoder.line_number, None, decoder.close())

    def nothing(self) -> InputError:
        """Return the error for a source without lines."""
        return InputError(
            f"{self.name} has no recorded run.", hint="Record one: tinyagent run --jsonl PROMPT > FILE"
        )

    def _warn_torn(self, text: str) -> None:
        self.on_warning(f"{self.name}: {text}")

    def _named(self, error: RecordError) -> RecordError:
        return RecordError(f"{self.name}: {error}", hint=error.hint)


def _time_of(line: bytes | str) -> int | None:
    try:
        time = msgspec.json.decode(line, type=_Timed).time
        return time if time is None or abs(time) < _LATEST else None
    except (msgspec.DecodeError, UnicodeError):
        return None


def open_source(text: str | None, on_warning: Callable[[str], None]) -> Source:
    """Open the file or the session of an argument; standard input for `-` and None.

    A file comes before a session of the same name.

    Raises:
        InputError: There is no such file or session, or it cannot be read.
    """
    if text is None or text == "-":
        return Source("standard input", _standard_input(text), on_warning)
    path = Path(text)
    try:
        if path.exists():
            return Source(text, os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY), on_warning)
        session = SessionStore(sessions_directory()).lookup(text)
        if session is not None:
            return open_session_source(session, on_warning)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"Cannot read {one_line(text)}: {reason}.") from None
    if path.name != text or text.endswith(SUFFIX):
        raise InputError(f"There is no file {one_line(text)}.")
    raise InputError(
        f"There is neither a file nor a session {one_line(text)!r}.",
        hint="All sessions: tinyagent sessions list",
    )


def open_session_source(session: Session, on_warning: Callable[[str], None]) -> Source:
    """Open a session.

    Raises:
        OSError: It cannot be opened.
    """
    with open_to_read(session.path) as file:
        return Source(f"the session {session.label}", os.dup(file.fileno()), on_warning)


def _standard_input(text: str | None) -> int:
    if sys.stdin is None:
        raise InputError("Standard input is closed.", hint="Name a file or a session.")
    if text is None and sys.stdin.isatty():
        raise InputError(
            "Name a file or a session, or pipe a run into this command.",
            hint="tinyagent run --jsonl PROMPT | tinyagent events text",
        )
    return sys.stdin.fileno()
