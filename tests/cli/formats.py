"""What TOML and JSON blocks of documents are, and the code that decodes them. Unknown keys are errors."""

from __future__ import annotations

import io
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import jsonschema_rs
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

from tinyagent import jsonl
from tinyagent.agent_types import JsonDict
from tinyagent_audit._rules import Rules
from tinyagent_cli.batch.items import BadLine, read_items
from tinyagent_cli.config.files import decode_keys, decode_user_file, read_project_file
from tinyagent_cli.config.templates import TemplatePath, read_template
from tinyagent_cli.rpc.schema import schema as rpc_schema
from tinyagent_mcp._import import read_servers
from tinyagent_mcp._sources import decode_servers
from tinyagent_proxy_server._config import read_config

from .documents import Block

__all__ = ["KINDS", "check", "kind_of"]


def _template(text: str, file: Path) -> None:
    read_template(TemplatePath(file.stem, file, is_project=False))


def _project(text: str, file: Path) -> None:
    project = ProjectMetadata(str(file.parent), PluginManager(), tomllib.loads(text))
    project.validate_fields()


def _lines(schema: JsonDict) -> Callable[[str, Path], None]:
    """Return a check of JSON values, one for each line or a single one on several lines."""

    def check(text: str, file: Path) -> None:
        validator = jsonschema_rs.validator_for(schema)
        for value in _values(text):
            validator.validate(value)

    return check


def _values(text: str) -> list[object]:
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


def _batch(text: str, file: Path) -> None:
    bad = [item for item in read_items(io.BytesIO(text.encode()), "jsonl") if isinstance(item, BadLine)]
    assert [] == bad


def _mcp_servers(text: str, file: Path) -> None:
    found, left_out = read_servers(text, str(file))
    assert (True, []) == (bool(found), left_out)


KINDS: dict[str, Callable[[str, Path], object]] = {
    "config.toml": decode_user_file,
    "keys.toml": decode_keys,
    "tinyagent.toml": lambda text, file: read_project_file(file, file),
    "template.toml": _template,
    "template.md": _template,
    "mcp.toml": decode_servers,
    "audit.toml": lambda text, file: Rules.read(str(file)),
    "proxy.toml": lambda text, file: read_config(file),
    "pyproject.toml": _project,
    "events": lambda text, file: _lines(jsonl.schema())(text, file),
    "rpc": lambda text, file: _lines(rpc_schema())(text, file),
    "batch": _batch,
    "mcp.json": _mcp_servers,
}
"""What a block can be: the name of a file of ours, or of lines of ours."""


def kind_of(block: Block) -> str | None:
    """Return the kind of a block: its word `as`, or the name of its file; None if there is no such kind."""
    file = Path(block.file)
    name = block.words.get("as") or file.name
    if file.parent.name == "templates":
        name = f"template{file.suffix}"
    return name if name in KINDS else None


def check(kind: str, text: str, folder: Path) -> None:
    """Decode a text by the reader of its kind.

    Args:
        kind: A key of `KINDS`.
        text: The text.
        folder: An empty folder for it.
    """
    file = folder / (kind if "." in kind else f"{kind}.json")
    file.write_text(text, encoding="utf-8")
    KINDS[kind](text, file)
