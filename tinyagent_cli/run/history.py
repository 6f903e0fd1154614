"""The conversation of `--history`. Only this option imports this."""

from __future__ import annotations

from tinyagent import _json, jsonl
from tinyagent._stream.message_checks import checked_messages
from tinyagent.agent_types import AgentMessage
from tinyagent.errors import RecordError
from tinyagent.text_files import MAX_RECORD_BYTES, decode_text, detect_encoding
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.exit_codes import InputError, how_it_ended

from .prompt_input import StandardInput, read_file

__all__ = ["read_history"]


def read_history(app: AppContext, path: str, stdin: StandardInput) -> list[AgentMessage]:
    """Return the messages of a record; `-` is standard input. Warn about a run that has failed.

    Raises:
        TinyAgentError: It cannot be read, or is no record.
    """
    name = "standard input" if path == "-" else path
    if path == "-":
        data = stdin.read(MAX_RECORD_BYTES, "Waiting for the conversation on standard input …")
    else:
        data = read_file(path, stdin, MAX_RECORD_BYTES)
    if not data or data.isspace():
        raise InputError(f"--history {path} is empty.")
    if detect_encoding(data)[0] != "utf-8":
        data = decode_text(data, f"--history {path}", error=RecordError).encode()
    try:
        messages = jsonl.messages(data, on_warning=lambda text: app.warn(f"{name}: {text}"))
    except RecordError as error:
        raise RecordError(f"--history {path}: {error}", hint=error.hint) from None
    last = _json.decode_object(_last_line(data).decode("utf-8", "replace")) or {}
    if last.get("type") == "result" and last.get("ok") is False:
        failure = _json.as_dict(last.get("error"))
        end = how_it_ended(str(failure.get("kind")), str(failure.get("message", "")))
        app.warn(f"The run in --history {path} {end}")
    return checked_messages(messages, f"--history {path}: ")


def _last_line(data: bytes) -> bytes:
    """Return the last line that is not blank. The data may be large, so it is not copied."""
    end = len(data)
    while end > 0 and data[end - 1 : end].isspace():
        end -= 1
    return data[data.rfind(b"\n", 0, end) + 1 : end]
