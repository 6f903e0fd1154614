"""Change one value of a TOML file. Comments and the order of the file stay as they are.

The file is locked while it is changed, and replaced atomically by one with mode 0600. The command line uses
these functions for its own files, and a plugin can use them for a file beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .agent_types import JsonValue
from .errors import ConfigurationError
from .text_files import read_config, write_private

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

__all__ = ["Check", "locked", "remove_value", "set_value"]

_LOCK_SECONDS = 10.0

Check = Callable[[str], object]
"""Raises a `ConfigurationError` if a text is not valid as the content of the file."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a configuration file against other processes that change it. A missing directory is created.

    Raises:
        ConfigurationError: Another process holds the lock, or the file or its directory cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), mode=0o600).acquire(_LOCK_SECONDS):
            yield
    except Timeout:
        raise ConfigurationError(
            f"{path} is locked by another process for more than {_LOCK_SECONDS:g} s."
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from None


def set_value(
    path: Path, keys: Sequence[str], value: JsonValue, check: Check, *, private: bool = False
) -> None:
    """Set the value of a key.

    Args:
        path: The file; it need not exist.
        keys: The parts of the dotted key.
        value: The new value. An object becomes a table, and the objects in it become inline tables.
        check: Called with the new text of the file, before it is written.
        private: Whether the file holds secrets.

    Raises:
        ConfigurationError: The file cannot be used or written, or `check` raises it; the file is unchanged.
    """
    import tomlkit

    with _changing(path, check, private=private) as document:
        table: MutableMapping[str, object] = document
        for name in keys[:-1]:
            if name not in table:
                if table is document and document:
                    document.add(tomlkit.nl())
                table[name] = tomlkit.table()
            table = _as_table(table[name], path, keys)
        table[keys[-1]] = _item(value)


def remove_value(path: Path, keys: Sequence[str], check: Check, *, private: bool = False) -> bool:
    """Remove a key. Return whether the file had it. The arguments and errors are those of `set_value`."""
    with _changing(path, check, private=private) as document:
        table: MutableMapping[str, object] = document
        for name in keys[:-1]:
            if name not in table:
                return False
            table = _as_table(table[name], path, keys)
        if keys[-1] not in table:
            return False
        del table[keys[-1]]
    return True


@contextmanager
def _changing(path: Path, check: Check, *, private: bool) -> Iterator[TOMLDocument]:
    """Lock and parse the file, and replace it at the end if its text has changed."""
    import tomlkit
    from tomlkit.exceptions import ParseError

    with locked(path):
        text = read_config(path, private=private) or ""
        try:
            document = tomlkit.parse(text)
        except ParseError as error:  # its message may quote a secret
            raise ConfigurationError(
                f"{path} is not TOML (at line {error.line}, column {error.col}).",
                hint="Correct it, then try again.",
            ) from None
        yield document
        changed = tomlkit.dumps(document)
        if changed != text:
            changed = changed.rstrip("\n") + "\n"  # a table that was removed leaves its blank line
            check(changed)
            write_private(path, changed.encode())


def _item(value: JsonValue) -> object:
    """Return a value as tomlkit writes it."""
    import tomlkit

    if not isinstance(value, dict):
        return value
    table = tomlkit.table()
    for key, part in value.items():
        if isinstance(part, dict):
            inline = tomlkit.inline_table()
            inline.update(part)
            table[key] = inline
        else:
            table[key] = part
    return table


def _as_table(value: object, path: Path, keys: Sequence[str]) -> MutableMapping[str, object]:
    if not isinstance(value, MutableMapping):
        raise ConfigurationError(f"{path}: {'.'.join(keys)}: a part of this key is a value, not a table.")
    return value
