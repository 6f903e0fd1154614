"""Search in sessions: an index of their texts in SQLite (FTS5), made from the files.

The index is only a copy. Before each use, every file whose size or time has changed is read again, and the
entries of missing files are removed. An index that is missing, damaged or from another version is made anew.

The tokens are trigrams, so that parts of words are found, and texts in languages that do not separate words.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, TypedDict

from tinyagent import _json, extract_text, jsonl
from tinyagent._stream.message_checks import is_assistant
from tinyagent.agent_types import AgentMessage, MessageEndEvent
from tinyagent.errors import ConfigurationError, RecordError
from tinyagent.jsonl import HistoryRecord
from tinyagent_cli.config.files import model_label

from .session import Session, open_to_read, read_header
from .store import SessionStore

__all__ = ["Match", "SessionIndex", "SessionInfo"]

_VERSION = 2
_SHORTEST_TOKEN = 3
_MOST_TEXT = 200_000
"""The most characters of one message that are searched."""

_TITLE = 100
_AROUND = 60
"""Characters before and after a match that are shown."""

_SCHEMA = f"""
create table sessions (
    key integer primary key, path text unique, mtime integer, size integer, id text, name text, cwd text,
    parent text, created text, model text, messages integer, title text, problem text
);
create table texts (key integer primary key, session integer, role text, text text);
create index texts_of_session on texts (session);
create virtual table words using fts5 (text, content='texts', content_rowid='key', tokenize='trigram');
create trigger text_added after insert on texts begin
    insert into words (rowid, text) values (new.key, new.text);
end;
create trigger text_removed after delete on texts begin
    insert into words (words, rowid, text) values ('delete', old.key, old.text);
end;
pragma user_version = {_VERSION};
"""


class SessionInfo(TypedDict):
    """What `sessions list` shows of a session. `used` is Unix milliseconds."""

    id: str
    name: str | None
    title: str
    model: str
    messages: int
    cwd: str
    parent: str
    created: str
    used: int
    path: str
    problem: str | None


class Match(TypedDict):
    """A message that has all words of a search."""

    id: str
    name: str | None
    title: str
    role: str
    text: str
    used: int
    path: str


class _Text(NamedTuple):
    role: str
    text: str


class _Content(NamedTuple):
    """What is stored about one file."""

    texts: list[_Text]
    model: str
    problem: str | None


class SessionIndex:
    """The index of a store. It is brought up to date when it is opened.

    Args:
        store: The sessions.
        path: The file of the index. If it cannot be written, the index is made in memory.

    Raises:
        ConfigurationError: This SQLite has no FTS5.
    """

    def __init__(self, store: SessionStore, path: Path) -> None:
        self._store = store
        self._database = self._open(path)

    def __enter__(self) -> SessionIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    # ---- reading ------------------------------------------------------------------------------------

    def sessions(self, folder: str | None = None) -> list[SessionInfo]:
        """Return all sessions, or those of a working folder; the last used one first."""
        rows = self._database.execute(
            "select id, name, title, model, messages, cwd, parent, created, mtime, path, problem "
            "from sessions where ?1 is null or cwd = ?1 order by mtime desc",
            (folder,),
        )
        return [
            SessionInfo(
                id=row[0],
                name=row[1],
                title=row[2],
                model=row[3],
                messages=row[4],
                cwd=row[5],
                parent=row[6],
                created=row[7],
                used=row[8] // 1_000_000,
                path=row[9],
                problem=row[10],
            )
            for row in rows
        ]

    def search(self, words: Sequence[str], folder: str | None = None, limit: int = -1) -> list[Match]:
        """Return the messages that contain all words, upper or lower case; of the last used session first.

        Args:
            words: The words, or parts of words.
            folder: Search only the sessions of this working folder.
            limit: The most messages; all if negative.
        """
        query = [
            "select s.id, s.name, s.title, t.role, t.text, s.mtime, s.path from texts t "
            "join sessions s on s.key = t.session where (? is null or s.cwd = ?)"
        ]
        values: list[str | int | None] = [folder, folder]
        long = [word for word in words if len(word) >= _SHORTEST_TOKEN]
        if long:
            query.append("and t.key in (select rowid from words where words match ?)")
            values.append(" AND ".join('"' + word.replace('"', '""') + '"' for word in long))
        for word in words:
            if len(word) < _SHORTEST_TOKEN:  # a trigram index does not know it
                query.append("and instr(lower(t.text), lower(?))")
                values.append(word)
        query.append("order by s.mtime desc, t.key limit ?")
        values.append(limit)
        return [
            Match(
                id=row[0],
                name=row[1],
                title=row[2],
                role=row[3],
                text=_excerpt(row[4], words),
                used=row[5] // 1_000_000,
                path=row[6],
            )
            for row in self._database.execute(" ".join(query), values)
        ]

    # ---- keeping up to date -----------------------------------------------------------------------------

    def _open(self, path: Path) -> sqlite3.Connection:
        for place in (path, path, None):
            try:
                return self._connect(place)
            except sqlite3.DatabaseError as error:
                if "fts5" in str(error) or "trigram" in str(error):
                    raise ConfigurationError(
                        f"This SQLite ({sqlite3.sqlite_version}) cannot search texts: {error}.",
                        hint="Search the files themselves: grep -r WORD " + str(self._store.directory),
                    ) from None
                if place is None:
                    raise
                if not isinstance(error, sqlite3.OperationalError):
                    _remove(place)  # it is damaged
            except OSError:
                pass
        raise AssertionError("unreachable")

    def _connect(self, path: Path | None) -> sqlite3.Connection:
        if path is not None:
            _prepare_file(path)
        database = sqlite3.connect(path if path is not None else ":memory:", timeout=10, isolation_level=None)
        try:
            database.execute("pragma synchronous = off")  # after a crash of the machine it is made anew
            database.execute("begin immediate")
            (version,) = database.execute("pragma user_version").fetchone()
            if version != _VERSION:
                _drop_all(database)
                for statement in _statements(_SCHEMA):
                    database.execute(statement)
            self._update(database)
            database.execute("commit")
        except BaseException:
            database.close()
            raise
        return database

    def _update(self, database: sqlite3.Connection) -> None:
        known: dict[str, tuple[int, int, int]] = {
            path: (key, mtime, size)
            for path, key, mtime, size in database.execute("select path, key, mtime, size from sessions")
        }
        for session in self._store:
            path = str(session.path)
            key, mtime, size = known.pop(path, (None, 0, 0))
            now = session.used_ns, session.size
            if (mtime, size) == now:
                continue
            if key is not None:
                _forget(database, key)
            self._add(database, session, now)
        for key, _, _ in known.values():
            _forget(database, key)

    def _add(self, database: sqlite3.Connection, session: Session, stamp: tuple[int, int]) -> None:
        header = read_header(session.path)
        if header is None:
            return
        content = _content(session)
        if not content.model and header.model is not None:
            names = (header.model.get("provider"), header.model.get("id"))
            content = content._replace(model=model_label(*(str(name or "") for name in names)))
        title = next((text for role, text in content.texts if role == "user"), "")
        added = database.execute(
            "insert into sessions (path, mtime, size, id, name, cwd, parent, created, model, messages, "
            "title, problem) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                str(session.path),
                *stamp,
                header.id,
                session.name,
                header.cwd,
                header.parent,
                header.created,
                content.model,
                len(content.texts),
                " ".join(title.split())[:_TITLE],
                content.problem,
            ),
        )
        database.executemany(
            "insert into texts (session, role, text) values (?, ?, ?)",
            [(added.lastrowid, role, text[:_MOST_TEXT]) for role, text in content.texts],
        )


def _forget(database: sqlite3.Connection, key: int) -> None:
    database.execute("delete from texts where session = ?", (key,))
    database.execute("delete from sessions where key = ?", (key,))


def _drop_all(database: sqlite3.Connection) -> None:
    for name in ("words", "texts", "sessions"):
        database.execute(f"drop table if exists {name}")


def _statements(script: str) -> Iterator[str]:
    """Split a script into statements: `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _prepare_file(path: Path) -> None:
    """Create the file of the index with mode 0600."""
    import os

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(path, flags, 0o600))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass


def _content(session: Session) -> _Content:
    """Read the texts of a session, up to a damaged line."""
    texts: list[_Text] = []
    model, problem = "", None
    try:
        with closing(open_to_read(session.path)) as file:
            for record in jsonl.read_records(file, on_warning=lambda text: None):
                if isinstance(record, HistoryRecord | MessageEndEvent):
                    message = record.message
                    texts.append(_Text(str(message.get("role", "")), _text_of(message)))
                    if is_assistant(message):
                        model = model_label(message.get("provider", ""), message.get("model", ""))
    except (OSError, RecordError) as error:
        problem = str(error)
    return _Content(texts, model, problem)


def _text_of(message: AgentMessage) -> str:
    """Return the text of a message, and the names and arguments of its tool calls."""
    parts = [extract_text(message)]
    for block in message.get("content", ()):
        if block.get("type") == "tool_call":
            arguments = _json.encode_lossy(block.get("arguments")).decode("utf-8", "replace")
            parts.append(f"{block.get('name', '')} {arguments}")
    return "\n".join(part for part in parts if part)


def _excerpt(text: str, words: Sequence[str]) -> str:
    """Return the part of a text around the first word that it has, on one line."""
    folded = text.lower()
    places = [place for word in words if (place := folded.find(word.lower())) >= 0]
    start = max(0, min(places, default=0) - _AROUND)
    end = min(places, default=0) + _AROUND
    shown = " ".join(text[start:end].split())
    return ("…" if start else "") + shown + ("…" if end < len(text) else "")
