"""The session that a run continues. Only `--session` and `--continue` import this."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from tinyagent.agent_types import AgentMessage
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.exit_codes import InputError
from tinyagent_cli.sessions.files import working_folder
from tinyagent_cli.sessions.session import Header, Session, check_name, last_model, read_header
from tinyagent_cli.sessions.store import SessionStore
from tinyagent_cli.sessions.writer import SessionWriter

__all__ = ["ContinuedSession", "SessionChoice", "choose_session", "open_session"]


class SessionChoice(NamedTuple):
    """The session that the options name. It is opened later, when all else is ready.

    Attributes:
        session: The session; None if it does not exist yet.
        name: The name of a new session.
        model: The model of its last reply.
    """

    store: SessionStore
    session: Session | None
    name: str
    header: Header | None
    model: str | None


class ContinuedSession(NamedTuple):
    """An open session and its conversation so far."""

    writer: SessionWriter
    messages: list[AgentMessage]


def choose_session(directory: Path, name: str | None) -> SessionChoice:
    """Find the session with this name or id, or else the last one of the working folder.

    Raises:
        InputError: There is no such session, or the name is ambiguous or invalid.
    """
    store = SessionStore(directory)
    if name is None:
        session: Session | None = store.last_of(working_folder())
    else:
        session = store.lookup(name)
        if session is None:
            check_name(name)
    if session is None:
        return SessionChoice(store, None, name or "", None, None)
    header = read_header(session.path)
    model = last_model(store.messages(session, whole=True), header)
    return SessionChoice(store, session, name or "", header, model)


def open_session(app: AppContext, choice: SessionChoice, history: list[AgentMessage]) -> ContinuedSession:
    """Open and lock the session, or create it.

    Args:
        app: Shows what the user should know about the session.
        choice: The session.
        history: The messages of `--history`.

    Raises:
        TinyAgentError: The session is in use, damaged, or cannot be written, or both have a conversation.
    """
    store, session = choice.store, choice.session
    opened = store.open_named(choice.name) if session is None else store.open(session)
    label = choice.name if session is None else session.label
    is_new = opened.header is None
    writer = SessionWriter(
        os.urandom(16).hex() if opened.header is None else opened.header.id,
        lambda: opened.descriptor,
        opened.path,
        app.warn,
        continues=not is_new,
        opened=opened.descriptor,
    )
    if history and opened.messages:
        writer.end()
        raise InputError(
            f"--history starts a conversation, but the session {label!r} has one.",
            hint="Leave out --history, or choose another name for the session.",
        )
    if is_new:
        app.note(f"This is a new session: {label}")
    else:
        if opened.end is not None:
            app.note(f"The last run of the session {label} {opened.end}")
        app.detail(f"Continuing the session {label} with {len(opened.messages)} messages.")
    return ContinuedSession(writer, opened.messages)
