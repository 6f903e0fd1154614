"""The argument of `--schema` and `--schema-multi`: a JSON Schema, its file, a list of fields, or a type."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import msgspec

from tinyagent import _json
from tinyagent._answer_form import AnswerForm, json_form
from tinyagent.agent_types import JsonDict, JsonValue
from tinyagent.errors import ConfigurationError, error_text
from tinyagent.text_files import decode_text, read_bytes
from tinyagent_cli.exit_codes import InputError
from tinyagent_cli.plugins.tool_sources import import_file
from tinyagent_cli.terminal.sanitise import Sanitizer

__all__ = ["WantedAnswer", "read_schema", "read_template_schema"]

MAX_SCHEMA_BYTES = 1 << 20
"""The size limit of a schema; providers accept less."""

_TYPE_IN_MODULE = r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<type>[^\W\d]\w*(?:\.[^\W\d]\w*)*)"
_TYPE_IN_FILE = r"(?P<file>.+\.py):(?P<type>[^\W\d]\w*(?:\.[^\W\d]\w*)*)"

_FORMS = (
    "A schema is a JSON Schema, a file with one, fields such as 'name, age int, tags list', or MODULE:TYPE. "
    "See docs/structured.md."
)


class WantedAnswer(NamedTuple):
    """What `--schema` or `--schema-multi` asks for.

    Attributes:
        form: The check of the answer.
        many: Whether the answer is a list, printed as JSON lines.
    """

    form: AnswerForm[JsonValue]
    many: bool

    def printed(self, value: JsonValue, *, terminal: bool) -> bytes:
        """Return the lines for standard output. On a terminal they are indented and sanitised."""
        if self.many and isinstance(value, list):
            lines = b"".join(_json.encode(item) + b"\n" for item in value)
        else:
            line = _json.encode(value)
            lines = (msgspec.json.format(line, indent=2) if terminal else line) + b"\n"
        return Sanitizer().feed(lines.decode()).encode() if terminal else lines


def read_schema(option: str, text: str, *, many: bool = False) -> WantedAnswer:
    """Read the argument of an option.

    Code is imported only for MODULE:TYPE and FILE.py:TYPE.

    Raises:
        InputError: The argument cannot be used.
    """
    try:
        return WantedAnswer(json_form(_read(option, text.strip()), many=many), many)
    except (TypeError, ConfigurationError) as error:
        raise InputError(f"{option}: {error}", hint=_FORMS) from None


def read_template_schema(where: str, schema: str | JsonDict, *, many: bool, only_data: bool) -> WantedAnswer:
    """Read the schema of a template: a table with a JSON Schema, or a text as for `--schema`.

    Args:
        where: The key and the template, for messages.
        schema: The schema.
        many: Whether the answer is a list of such values.
        only_data: Whether the text can name neither a file nor a type.

    Raises:
        InputError: The schema cannot be used.
    """
    if isinstance(schema, str):
        if not only_data:
            return read_schema(where, schema, many=many)
        text = schema.strip()
        if _names_a_file_or_type(text):
            raise InputError(
                f"{where}: {text!r} names a file or a type. A template of a project can only have fields "
                "or a JSON Schema, because otherwise its code could run without your request.",
                hint=f"To use it: --schema {text}",
            )
        source: object = _json_schema(where, text) if text.startswith("{") else _fields(where, text)
    else:
        source = schema
    try:
        return WantedAnswer(json_form(source, many=many), many)
    except (TypeError, ConfigurationError) as error:
        raise InputError(f"{where}: {error}", hint=_FORMS) from None


def _names_a_file_or_type(text: str) -> bool:
    if text.startswith("{") or "\n" in text:
        return False
    is_type = any(re.fullmatch(pattern, text) for pattern in (_TYPE_IN_FILE, _TYPE_IN_MODULE))
    return is_type or _looks_like_a_file(text)


def _looks_like_a_file(text: str) -> bool:
    return "\n" not in text and ("/" in text.split(":")[0] or text.endswith((".json", ".py")))


def _read(option: str, text: str) -> object:
    if text.startswith("{"):
        return _json_schema(option, text)
    if _exists(text):
        data = read_bytes(text, limit=MAX_SCHEMA_BYTES, error=InputError)
        return _json_schema(f"{option} {text}", decode_text(data, text, error=InputError))
    if (match := re.fullmatch(_TYPE_IN_FILE, text)) is not None:
        return _type_in_file(option, match["file"], match["type"])
    if (match := re.fullmatch(_TYPE_IN_MODULE, text)) is not None:
        return _type_in_module(option, match["module"], match["type"])
    if _looks_like_a_file(text):
        raise InputError(f"{option}: there is no file {text}.", hint=_FORMS)
    return _fields(option, text)


def _exists(path: str) -> bool:
    """Whether it is a file. It may be a pipe: --schema <(…)."""
    try:
        return Path(path).exists() and not Path(path).is_dir()
    except (OSError, ValueError):  # longer than a name, or with a NUL character
        return False


def _json_schema(where: str, text: str) -> Mapping[str, object]:
    try:
        value = _json.decode(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {error}.", hint=_FORMS) from None
    if not isinstance(value, dict):
        raise InputError(f"{where} is not a JSON Schema, which is an object.", hint=_FORMS)
    return value


# ---- types --------------------------------------------------------------------------------------------


def _type_in_module(option: str, module: str, name: str) -> object:
    """Import a module, and return a type in it. Modules in the working directory are found last."""
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        found: object = import_module(module)
    except ModuleNotFoundError as error:
        hint = None
        if error.name == module.partition(".")[0] and "." not in name:
            hint = f"A description of a field needs a space after the colon: '{module}: {name}'"
        raise InputError(f"{option} {module}:{name}: {error}.", hint=hint or _FORMS) from None
    except (Exception, SystemExit) as error:  # it is code of the user, which may do anything
        raise InputError(f"{option} {module}:{name}: the import failed: {error_text(error)}") from error
    finally:
        sys.path.remove(folder)
    return _attribute(f"{option} {module}:{name}", found, name)


def _type_in_file(option: str, path: str, name: str) -> object:
    where = f"{option} {path}:{name}"
    if not _exists(path):
        raise InputError(f"{where}: there is no file {path}.", hint=_FORMS)
    try:
        found: object = import_file(Path(os.path.abspath(path)))  # noqa: PTH100 - not resolved
    except (Exception, SystemExit) as error:  # it is code of the user, which may do anything
        raise InputError(f"{where}: the import failed: {error_text(error)}") from error
    return _attribute(where, found, name)


def _attribute(where: str, value: object, names: str) -> object:
    for name in names.split("."):
        if not hasattr(value, name):
            raise InputError(f"{where}: there is no {name!r}.")
        value = getattr(value, name)
    return value


# ---- fields -------------------------------------------------------------------------------------------

_TYPES: dict[str, JsonDict] = {
    **{name: {"type": "string"} for name in ("str", "string", "text")},
    **{name: {"type": "integer"} for name in ("int", "integer")},
    **{name: {"type": "number"} for name in ("float", "number")},
    **{name: {"type": "boolean"} for name in ("bool", "boolean")},
    **{name: {"type": "object"} for name in ("dict", "object")},
}


def _fields(option: str, text: str) -> JsonDict:
    """Return the schema of a list of fields: `NAME [TYPE] [: DESCRIPTION]`, separated by commas or lines."""
    properties: JsonDict = {}
    for field in text.split("\n" if "\n" in text else ","):
        if not field.strip():
            continue
        head, _, description = field.partition(":")
        name, *kinds = head.split() or [""]
        if not re.fullmatch(r"[^\W\d][\w-]*", name) or len(kinds) > 1:
            raise InputError(
                f"{option}: the field {field.strip()!r} is not NAME, NAME TYPE or NAME TYPE: DESCRIPTION.",
                hint=_FORMS,
            )
        if name in properties:
            raise InputError(f"{option}: the field {name!r} appears twice.")
        properties[name] = _field_type(option, kinds[0] if kinds else "str")
        if description.strip():
            properties[name]["description"] = description.strip()
    if not properties:
        raise InputError(f"{option} is empty.", hint=_FORMS)
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _field_type(option: str, name: str) -> JsonDict:
    if name in ("list", "array"):
        name = "list[str]"
    if name in _TYPES:
        return dict(_TYPES[name])
    if name.startswith("list[") and name.endswith("]"):
        return {"type": "array", "items": _field_type(option, name[5:-1])}
    raise InputError(
        f"{option}: the type {name!r} is unknown.",
        hint="Types are str, int, float, bool, dict, list and list[TYPE].",
    )
