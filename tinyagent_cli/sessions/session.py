"""A session file as it is read: its header, its name, its model and its messages.

It may have been copied from elsewhere or written by another program. So it is read like any record: its size
is limited, its messages are checked, and symbolic links are refused.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from tinyagent import jsonl
from tinyagent._stream.message_checks import checked_messages, is_assistant
from tinyagent.agent_types import AgentMessage
from tinyagent.errors import RecordError
from tinyagent_cli.config.files import model_label
from tinyagent_cli.exit_codes import InputError, how_it_ended
from tinyagent_cli.terminal.sanitise import one_line

from .files import SHOWN_ID, SUFFIX

__all__ = [
    "FORBIDDEN",
    "Header",
    "Session",
    "check_name",
    "end_of",
    "last_model",
    "messages_of",
    "open_to_read",
    "read_header",
    "session_of",
]

_LONGEST_NAME = 100
_HEADER_BYTES = 64 << 20
"""The limit of a header, which has the system prompt."""
FORBIDDEN = frozenset('/\\:*?"<>|')
"""Characters that a name cannot have."""


class Header(msgspec.Struct, frozen=True):
    """What the first line of a session file says about it. Anything may be missing in a foreign file."""

    id: str = ""
    created: str = ""
    cwd: str = ""
    parent: str = ""
    system_prompt: str = ""
    model: dict[str, object] | None = None


class Session(NamedTuple):
    """A session file.

    Attributes:
        name: Its name; None for a session without one, which may be removed by itself.
        used_ns: When it was last written, in nanoseconds since 1970.
    """

    path: Path
    name: str | None
    used_ns: int
    size: int

    @property
    def id(self) -> str:
        """The id, from the file name or else from the header."""
        if self.name is None:
            return self.path.name.removesuffix(SUFFIX)
        header = read_header(self.path)
        return header.id if header is not None else ""

    @property
    def label(self) -> str:
        """The name, or else the first digits of the id."""
        return self.name or self.id[:SHOWN_ID]


def session_of(path: Path, *, named: bool) -> Session | None:
    """Return the session of a file; None if it is no session file, or has no line yet."""
    if not path.name.endswith(SUFFIX):
        return None
    try:
        found = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        return None
    name = path.name.removesuffix(SUFFIX) if named else None
    return Session(path, name, found.st_mtime_ns, found.st_size)


def check_name(name: str) -> str:
    """Return the name of a session, if it can be the name of a file on any system.

    Raises:
        InputError: It cannot.
    """
    problem = None
    if not name.strip():
        problem = "it is empty"
    elif set(name) & FORBIDDEN:
        problem = 'it has one of the characters / \\ : * ? " < > |'
    elif not name.isprintable() or name != name.strip():
        problem = "it has line breaks, control characters, or spaces around it"
    elif name.startswith((".", "-")):
        problem = "it starts with a dot or a dash"
    elif len(os.fsencode(name)) > _LONGEST_NAME:
        problem = f"it is longer than {_LONGEST_NAME} bytes"
    if problem is not None:
        raise InputError(
            f"{one_line(name, 60)!r} cannot be the name of a session: {problem}.",
            hint="Use letters, digits, '-', '_' and '.', for example: --session trip-2026",
        )
    return name


def read_header(path: Path) -> Header | None:
    """Return the header of a session file; None if it has none, such as a file without a line."""
    try:
        with open_to_read(path) as file:
            line = file.readline(_HEADER_BYTES)
        return msgspec.json.decode(line, type=Header) if line.startswith(b'{"type":"session"') else None
    except (OSError, msgspec.DecodeError, UnicodeError):
        return None


def open_to_read(path: Path) -> IO[bytes]:
    """Open a session file for reading. A symbolic link, a pipe or a device is refused.

    Raises:
        OSError: It cannot be opened.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return os.fdopen(descriptor, "rb")


def last_model(messages: list[AgentMessage], header: Header | None) -> str | None:
    """Return the model of the last reply as a name for `-m`, or else that of the header; None if unknown.

    A recorded run answers only once, so it is not the model of what follows.
    """
    known: list[tuple[object, object]] = [
        (message.get("provider"), message.get("model")) for message in messages if is_assistant(message)
    ]
    if header is not None and header.model is not None:
        known.insert(0, (header.model.get("provider"), header.model.get("id")))
    for provider, model_id in reversed(known):
        if isinstance(provider, str) and isinstance(model_id, str) and provider:
            if provider == "replay":
                return None
            return model_label(provider, model_id)
    return None


def messages_of(data: bytes, label: str, *, whole: bool = False) -> list[AgentMessage]:
    """Return the conversation in the content of a session. `label` names it in errors.

    Raises:
        TinyAgentError: It is no record.
    """
    try:
        found = jsonl.messages(data, whole=whole, on_warning=lambda text: None)
    except RecordError as error:
        raise RecordError(f"The session {label!r} is damaged: {error}", hint=error.hint) from None
    return checked_messages(found, f"the session {label!r}: ")


def end_of(data: bytes) -> str | None:
    """Return how the last run ended, if it has no answer; None if it has one."""
    start = data.rfind(b"\n", 0, len(data) - 1) + 1
    try:
        last = msgspec.json.decode(data[start:], type=jsonl.ResultRecord)
    except (msgspec.DecodeError, UnicodeError):
        return None
    return None if last.error is None else how_it_ended(last.error.kind, last.error.message)
