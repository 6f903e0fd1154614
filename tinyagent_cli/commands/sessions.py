"""`tinyagent sessions`: saved conversations."""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.shell_completion import complete_sessions
from tinyagent_cli.terminal.amounts import counted, time_text
from tinyagent_cli.terminal.tables import print_json, print_table

from .options import TextArgument, command_group, common_options, json_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tinyagent.agent_types import AgentMessage
    from tinyagent_cli.sessions.index import SessionIndex
    from tinyagent_cli.sessions.session import Session
    from tinyagent_cli.sessions.store import SessionStore
    from tinyagent_cli.terminal.output import Output

__all__ = ["sessions"]

_MINUTES = len("2026-01-31 17:05")
"""The part of a time that is shown."""

_here_option = click.option("--here", is_flag=True, help="Only the sessions of the working directory.")
_no_pager_option = click.option("--no-pager", is_flag=True, help="Do not use $PAGER or less on a terminal.")
_session_argument = click.argument(
    "session", required=False, type=TextArgument(), shell_complete=complete_sessions
)


@command_group()
def sessions() -> None:
    """Show, search and manage saved conversations.

    A SESSION is a name, or an id or the beginning of one. Where it may be left out, it is the last session of
    the working directory.

    \b
      tinyagent run -c "And in French?"          continue the last one
      tinyagent run --session trip "Where to?"   start or continue one with a name
    """


def _store() -> SessionStore:
    from tinyagent_cli.config.environment import sessions_directory
    from tinyagent_cli.sessions.store import SessionStore

    return SessionStore(sessions_directory())


def _index() -> SessionIndex:
    from tinyagent_cli.config.environment import cache_directory
    from tinyagent_cli.sessions.index import SessionIndex

    return SessionIndex(_store(), cache_directory() / "sessions.sqlite")


def _folder(here: bool) -> str | None:
    from tinyagent_cli.sessions.files import working_folder

    return working_folder() if here else None


def _session(store: SessionStore, text: str | None) -> Session:
    from tinyagent_cli.sessions.files import working_folder

    return store.last_of(working_folder()) if text is None else store.find(text)


@contextmanager
def _pager(app: AppContext, no_pager: bool) -> Iterator[Output | None]:
    """Return the output to a pager; None if it is not used."""
    if no_pager or not sys.stdout.isatty():
        yield None
        return
    from tinyagent_cli.terminal.pager import has_pager, open_pager

    with open_pager(color=app.allows_color) if has_pager() else nullcontext() as pager:
        yield pager


@sessions.command("list")
@_here_option
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="Only the last N sessions.")
@_no_pager_option
@json_option
@common_options
@click.pass_obj
def list_sessions(app: AppContext, here: bool, limit: int | None, no_pager: bool, as_json: bool) -> None:
    """List the sessions, the last used one first. A long list is shown in $PAGER, or in less."""
    from tinyagent_cli.sessions.files import SHOWN_ID

    with _index() as index:
        found = index.sessions(_folder(here))[:limit]
    if as_json:
        print_json(found)
    elif not found and here:
        app.note("There are no sessions of this folder. All sessions: tinyagent sessions list")
    elif not found:
        app.note(f"There are no sessions in {_store().directory}.")
    else:
        rows = [
            (
                session["id"][:SHOWN_ID],
                session["name"] or "",
                time_text(session["used"])[:_MINUTES],
                session["model"],
                str(session["messages"]),
                session["title"] + (" (damaged)" if session["problem"] else ""),
            )
            for session in found
        ]
        with _pager(app, no_pager) as pager:
            print_table(("ID", "NAME", "USED", "MODEL", "MESSAGES", "TITLE"), rows, pager, cut=True)


@sessions.command(short_help="Find messages by their words.")
@click.argument("words", nargs=-1, required=True, type=TextArgument())
@_here_option
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N messages.")
@_no_pager_option
@json_option
@common_options
@click.pass_obj
def search(
    app: AppContext, words: tuple[str, ...], here: bool, limit: int | None, no_pager: bool, as_json: bool
) -> None:
    """Find the messages that have all WORDS, or parts of words, in upper or lower case.

    Prompts, replies, tool calls and their results are searched.
    """
    from tinyagent_cli.exit_codes import InputError
    from tinyagent_cli.sessions.files import SHOWN_ID

    parts = [part for word in words for part in word.split()]
    if not parts:
        raise InputError("There is no word to search for.", hint="All sessions: tinyagent sessions list")
    with _index() as index:
        found = index.search(parts, _folder(here), limit or -1)
    if as_json:
        print_json(found)
    elif not found:
        app.note("No message has these words.")
    else:
        rows = [
            (
                match["name"] or match["id"][:SHOWN_ID],
                time_text(match["used"])[:_MINUTES],
                match["role"],
                match["text"],
            )
            for match in found
        ]
        with _pager(app, no_pager) as pager:
            print_table(("SESSION", "USED", "ROLE", "TEXT"), rows, pager)


@sessions.command(short_help="Show a session as its runs showed it.")
@_session_argument
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the last N prompts, with what came after them.",
)
@click.option("--plain", is_flag=True, help="Show the replies as they are, also on a terminal.")
@_no_pager_option
@click.option("--json", "as_json", is_flag=True, help="Print one object: that of `list`, with the messages.")
@common_options
@click.pass_obj
def show(
    app: AppContext, session: str | None, limit: int | None, plain: bool, no_pager: bool, as_json: bool
) -> None:
    """Show a session as its runs showed it: prompts, replies and tool calls; thinking with -v.

    On a terminal, a session that does not fit on the screen is shown in $PAGER, or in less.
    """
    store = _store()
    found = _session(store, session)
    if as_json:
        _print_session(store, found, limit)
        return
    import asyncio

    from tinyagent_cli.events.source import open_session_source
    from tinyagent_cli.exit_codes import InputError
    from tinyagent_cli.run.transcript import show_transcript
    from tinyagent_cli.terminal.output import take_stdout

    try:
        entries = open_session_source(found, app.warn).entries()
    except OSError as error:
        raise InputError(f"Cannot read {found.path}: {error.strerror}.") from None
    with _pager(app, no_pager) as pager:
        asyncio.run(show_transcript(app, entries, pager or take_stdout(), plain=plain, limit=limit))


def _print_session(store: SessionStore, session: Session, limit: int | None) -> None:
    from tinyagent_cli.sessions.markdown import last_messages

    messages: Sequence[AgentMessage] = store.messages(session)
    with _index() as index:
        facts = [each for each in index.sessions() if each["path"] == str(session.path)]
    messages = messages if limit is None else last_messages(messages, limit)
    print_json({**facts[0], "messages": messages} if facts else {"messages": messages})


@sessions.command()
@_session_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "markdown"]),
    default="jsonl",
    help="jsonl (default), for --history, replay: and programs; or markdown.",
)
@common_options
def export(session: str | None, form: str) -> None:
    """Print a session as JSON lines or as Markdown."""
    from tinyagent_cli.sessions.markdown import markdown
    from tinyagent_cli.terminal.output import take_stdout

    store = _store()
    found = _session(store, session)
    if form == "jsonl":
        data = store.read(found)
        data = data[: data.rfind(b"\n") + 1]  # a run may write the next line now
    else:
        data = "".join(markdown(store.messages(found, whole=True))).encode("utf-8", "replace")
    take_stdout().write_or_raise(data)


@sessions.command()
@click.argument("session", type=TextArgument(), shell_complete=complete_sessions)
@click.argument("name", type=TextArgument())
@common_options
@click.pass_obj
def rename(app: AppContext, session: str, name: str) -> None:
    """Give SESSION a NAME. A session with a name is never removed by itself."""
    store = _store()
    found = store.find(session)
    before = found.label
    store.rename(found, name)
    app.note(f"The session {before} has the name {name}.")


@sessions.command()
@click.argument(
    "names", nargs=-1, metavar="SESSION...", type=TextArgument(), shell_complete=complete_sessions
)
@click.option("--all", "everything", is_flag=True, help="Remove all sessions.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@common_options
@click.pass_obj
def remove(app: AppContext, names: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Remove sessions, after a question."""
    from tinyagent.errors import TinyAgentError
    from tinyagent_cli.exit_codes import InputError

    store = _store()
    if bool(names) == everything:
        raise InputError("Name the sessions to remove, or use --all.", hint="tinyagent sessions list")
    found = list(store) if everything else list(dict.fromkeys(store.find(name) for name in names))
    if not found:
        app.note("There is no session to remove.")
        return
    what = f"the session {found[0].label}" if len(found) == 1 else f"{len(found)} sessions"
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise InputError(f"Removing {what} needs an answer on a terminal.", hint="Without a question: -y")
        if not click.confirm(f"Remove {what}? This cannot be undone.", err=True):
            app.note("Nothing was removed.")
            return
    failure: TinyAgentError | None = None
    removed = 0
    for session in found:
        try:
            store.remove(session)
            removed += 1
        except TinyAgentError as error:
            failure = error
    app.note(f"{counted(removed, 'session')} removed.")
    if failure is not None:
        raise failure


@sessions.command(short_help="Copy a session.")
@click.argument("session", type=TextArgument(), shell_complete=complete_sessions)
@click.argument("name", required=False, type=TextArgument())
@common_options
def fork(session: str, name: str | None) -> None:
    """Copy SESSION, with a NAME if one is given. Print the name of the copy, or its id if it has none.

    The copy belongs to the working directory, so `tinyagent run -c` continues it.
    """
    from tinyagent_cli.sessions.files import working_folder

    store = _store()
    new_id, _ = store.fork(store.find(session), name, working_folder())
    click.echo(name or new_id)


@sessions.command()
@click.argument("session", required=False, type=TextArgument(), shell_complete=complete_sessions)
@common_options
def path(session: str | None) -> None:
    """Print the file of SESSION, or the directory of all sessions."""
    store = _store()
    click.echo(str(store.directory if session is None else store.find(session).path))
