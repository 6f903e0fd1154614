"""Read the servers that other programs have configured: the `mcpServers` JSON.

Claude Desktop, Claude Code, Cursor, Windsurf, Cline and Gemini CLI have an object `mcpServers`, VS Code has
`servers` (or `mcp.servers` in its settings), Zed has `context_servers`. VS Code and Zed allow comments.

A value that looks like a secret is not copied: the configuration gets a reference to a variable instead.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from tinyagent import ConfigurationError
from tinyagent.agent_types import JsonObject

from ._config import ServerConfig
from ._paths import absolute
from ._secrets import has_secret, secret_argument

__all__ = ["Imported", "LeftOut", "read_servers"]

_IGNORED = {
    "alwaysAllow": "approvals are not imported",
    "autoApprove": "approvals are not imported",
    "trust": "approvals are not imported",
    "oauth": "to sign in: tinyagent mcp login NAME",
    "auth": "to sign in: tinyagent mcp login NAME",
    "envFile": "variables of a file are not read; set them in the environment",
}
"""Keys of other programs that are left out, each with the reason."""

_NO_EFFECT = {"type", "transport", "transportType", "description", "name", "gallery", "version", "icon"}
_NO_EFFECT |= {"dev", "source", "id", "registryUrl", "metadata"}
"""Keys that need not be reported."""


class Imported(msgspec.Struct, kw_only=True):
    """A server that can be imported.

    Attributes:
        name: Its name here.
        table: Its keys in `mcp.toml`.
        notes: What was changed or left out, as sentences.
    """

    name: str
    table: JsonObject
    notes: list[str]


class LeftOut(msgspec.Struct, frozen=True):
    """A server that cannot be imported, and the reason."""

    name: str
    reason: str


class _CannotImportError(Exception):
    """A server has something that cannot be imported."""


def read_servers(text: str, file: str) -> tuple[list[Imported], list[LeftOut]]:
    """Return the servers of a configuration file of another program.

    Args:
        text: The text of the file.
        file: Its name, for errors.

    Raises:
        ConfigurationError: The text is not JSON, or has no servers.
    """
    try:
        whole = msgspec.json.decode(without_comments(text))
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{file} is not JSON: {error}.") from None
    servers = _servers_in(whole)
    if servers is None:
        raise ConfigurationError(
            f"{file} has no MCP servers.",
            hint='They are an object "mcpServers", or "servers" in the mcp.json of VS Code.',
        )
    imported: list[Imported] = []
    left_out: list[LeftOut] = []
    variables: dict[str, str] = {}
    for label, entry in servers.items():
        try:
            if not isinstance(entry, dict):
                raise _CannotImportError("it is not an object")
            found = _imported(label, entry, variables)
            if any(other.name == found.name for other in imported):
                raise _CannotImportError(f"another server is named {found.name!r}, too")
            imported.append(found)
        except _CannotImportError as error:
            left_out.append(LeftOut(label, str(error)))
    return imported, left_out


def without_comments(text: str) -> str:
    """Return JSON without comments and trailing commas, which VS Code and Zed allow."""
    pattern = r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/'
    text = re.sub(pattern, lambda found: found[0] if found[0][0] == '"' else " ", text, flags=re.DOTALL)
    pattern = r'"(?:[^"\\\n]|\\.)*"|,(?=\s*[}\]])'
    return re.sub(pattern, lambda found: found[0] if found[0][0] == '"' else "", text)


def _servers_in(whole: object) -> JsonObject | None:
    match whole:
        case {"mcpServers": dict(found)} | {"context_servers": dict(found)}:
            return found
        case {"mcp": {"servers": dict(found)}} | {"servers": dict(found)}:
            return found
    return None


def _imported(label: str, entry: JsonObject, variables: dict[str, str]) -> Imported:
    name = re.sub(r"[^A-Za-z0-9-]+", "-", label).strip("-")[:32].strip("-")
    if not name:
        raise _CannotImportError("its name has no letter or digit")
    found = Imported(name=name, table={}, notes=[])
    if name != label:
        found.notes.append(f"its name here is {name}")
    fields = dict(entry)
    nested = fields.get("command")
    if isinstance(nested, dict):  # an older form of Zed
        fields = {**fields, **nested, "command": nested.get("path", nested.get("command"))}
    _take_target(found, fields)
    for key in ("env", "headers"):
        values = fields.pop(key, None) or {}
        if not isinstance(values, dict):
            raise _CannotImportError(f"its {key} is not an object")
        if values:
            found.table[key] = {
                str(field): _value(found, key, str(field), str(value), variables)
                for field, value in values.items()
            }
    for source, target in (
        ("includeTools", "tools"),
        ("excludeTools", "exclude"),
        ("disabledTools", "exclude"),
    ):
        patterns = fields.pop(source, None)
        if isinstance(patterns, list) and patterns:
            found.table[target] = [str(pattern) for pattern in patterns]
    if fields.pop("disabled", False) is True or fields.pop("enabled", True) is False:
        found.table["enabled"] = False
        found.notes.append("it is disabled there, so it is not enabled here")
    _take_limit(found, fields)
    for key in fields:
        if key in _IGNORED:
            found.notes.append(f"{key} is left out: {_IGNORED[key]}")
        elif key not in _NO_EFFECT:
            found.notes.append(f"{key} is left out: it is not known here")
    try:
        msgspec.convert({**found.table, "name": name}, ServerConfig)
    except ValueError as error:
        raise _CannotImportError(str(error).rstrip(".")) from None
    return found


def _take_target(found: Imported, fields: JsonObject) -> None:
    """Move the command or the URL to the table."""
    kind = str(fields.get("type") or fields.get("transport") or "").lower()
    command = fields.pop("command", None)
    arguments = fields.pop("args", None) or []
    url = next((fields.pop(key) for key in ("httpUrl", "serverUrl", "url") if fields.get(key)), None)
    directory = fields.pop("cwd", None)
    if command is not None:
        if not isinstance(command, str) or not isinstance(arguments, list):
            raise _CannotImportError("its command is not a string with a list of arguments")
        words = [_place(found, str(word)) for word in (command, *arguments)]
        secret = secret_argument(words)
        if secret is not None:
            raise _CannotImportError(
                f"its arguments have a secret ({secret}), which would be copied to a file. If the server can "
                "take it from a variable, add it yourself: tinyagent mcp add"
            )
        found.table["command"] = [absolute(word) for word in words]
        if directory is not None:
            found.table["cwd"] = _place(found, str(directory))
        return
    if not isinstance(url, str):
        raise _CannotImportError("it has neither a command nor a url")
    if kind == "sse" or (kind == "" and url.rstrip("/").endswith("/sse")):
        raise _CannotImportError(
            "it uses the old transport SSE; ask for its address for streamable HTTP, which often ends in /mcp"
        )
    if kind == "ws" or url.startswith(("ws://", "wss://")):
        raise _CannotImportError("it uses WebSockets, which are not supported")
    url = _place(found, url)
    if (secret := secret_argument([url])) is not None:
        raise _CannotImportError(f"its url has a secret ({secret}), which would be copied to a file")
    found.table["url"] = url


def _place(found: Imported, word: str) -> str:
    """Replace the variables of other programs that stand for places. Others are refused."""
    if re.search(r"\$\{workspaceFolder(Basename)?\}", word):
        found.table["cwd"] = "."
        note = "${workspaceFolder} is the working directory, in which the server starts"
        if note not in found.notes:
            found.notes.append(note)
        word = word.replace("${workspaceFolder}", ".")
    word = word.replace("${userHome}", str(Path.home())).replace("${pathSeparator}", os.sep)
    variable = re.search(r"\$\{[^}]*\}", word)
    if variable is not None:
        raise _CannotImportError(
            f"its command or url has the variable {variable[0]}; variables work in env and headers"
        )
    return word


def _value(found: Imported, kind: str, field: str, value: str, variables: dict[str, str]) -> str:
    """Return a value of `env` or `headers`, with a reference in place of a secret."""
    value = re.sub(r"\$\{env:(\w+)\}", r"${\1}", value)
    value = re.sub(r"\$\{(\w+):-[^}]*\}", r"${\1}", value)

    def asked(match: re.Match[str]) -> str:
        variable = _variable(found.name, match[1], match[0], variables)
        found.notes.append(f"{field} is asked for there; set the variable {variable} before you use it")
        return f"${{{variable}}}"

    value = re.sub(r"\$\{input:([^}]+)\}", asked, value)
    if "${" in value and re.search(r"\$\{(?!\w+\})", value):
        return _place(found, value)
    if not has_secret(field, value):
        return value
    scheme, _, rest = value.partition(" ")
    prefix = f"{scheme} " if rest and scheme.lower() in ("bearer", "basic", "token") else ""
    secret = value.removeprefix(prefix)
    wanted = field if kind == "env" else f"{found.name}_{'token' if prefix else field}"
    variable = _variable(found.name, wanted, secret, variables)
    found.notes.append(
        f"the value of {field} looks like a secret and is not copied; set the variable {variable} before you "
        f"use it: export {variable}=…"
    )
    return f"{prefix}${{{variable}}}"


def _variable(server: str, wanted: str, value: str, variables: dict[str, str]) -> str:
    """Return the name of a variable for a value. A second value of a name gets the server's name, too."""
    name = _as_variable(wanted)
    if variables.get(name, value) != value or os.environ.get(name, value) != value:
        name = _as_variable(f"{server}_{wanted}")
    variables[name] = value
    return name


def _as_variable(text: str) -> str:
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_").upper()
    return f"_{name}" if name[:1].isdigit() else name


def _take_limit(found: Imported, fields: JsonObject) -> None:
    """Take the time limit of a call. Some programs count seconds, others milliseconds."""
    limit = fields.pop("timeout", None)
    if isinstance(limit, int | float) and not isinstance(limit, bool) and limit > 0:
        found.table["timeout"] = float(limit / 1000 if limit >= 1000 else limit)
