"""The user's message: files, piped standard input and the prompt, in this order.

Standard input has one use at a time: `--history -`, `-f -`, or the text before the prompt.
"""

from __future__ import annotations

import base64
import os
import re
import select
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from tinyagent._stream.builder import now_ms
from tinyagent.agent_types import ImageContent, TextContent, UserMessage
from tinyagent.text_files import decode_text, read_bytes, read_descriptor
from tinyagent_cli.exit_codes import InputError
from tinyagent_cli.terminal.sanitise import one_line

__all__ = [
    "MAX_INPUT",
    "StandardInput",
    "build_prompt",
    "find_mentions",
    "image_type",
    "is_url",
    "note_missing_files",
    "read_file",
    "read_files",
]

MAX_INPUT = 64 * 1024 * 1024
"""The limit in bytes of standard input, and of all files together; no context window is larger."""

MAX_IMAGE = 32 * 1024 * 1024
"""The limit of an image in bytes. No provider accepts more, and base64 makes it a third larger."""

_WAITING = "Waiting for standard input, which comes before the prompt (--no-stdin: do not read it) …"


class StandardInput:
    """Piped standard input, read from a descriptor that plugins do not have.

    Args:
        descriptor: None if standard input is closed.
        note: Called if the first byte takes more than a second.

    Attributes:
        was_empty: Whether it was read and had only white space.
    """

    def __init__(self, descriptor: int | None, note: Callable[[str], None]) -> None:
        self._descriptor = descriptor
        self._note = note
        self.was_empty: bool = False

    @property
    def is_piped(self) -> bool:
        """Return whether it is a pipe, a socket or a file, not a terminal or a device."""
        if self._descriptor is None:
            return False
        mode = os.fstat(self._descriptor).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)

    def read(self, limit: int = MAX_INPUT, waiting: str = _WAITING) -> bytes:
        """Read all bytes.

        Args:
            limit: The size limit in bytes.
            waiting: The message for the user if nothing arrives within a second.

        Raises:
            InputError: Standard input cannot be read, or is longer than `limit`.
        """
        if self._descriptor is None:
            raise InputError("Cannot read standard input: it is closed.")
        try:
            if not select.select([self._descriptor], [], [], 1.0)[0]:
                self._note(waiting)
        except OSError as error:
            raise InputError(f"Cannot read standard input: {error.strerror}.") from None
        data = read_descriptor(self._descriptor, limit=limit, name="standard input", error=InputError)
        self.was_empty = not data or data.isspace()
        return data


def read_file(path: str, stdin: StandardInput, limit: int = MAX_INPUT) -> bytes:
    """Read the bytes of a file; `-` is standard input. The errors are those of `StandardInput.read`."""
    return stdin.read(limit) if path == "-" else read_bytes(path, limit=limit, error=InputError)


def is_url(path: str) -> bool:
    """Return whether the argument of `-f` is a web page."""
    return path.startswith(("http://", "https://"))


def find_mentions(prompt: str) -> tuple[str, list[str]]:
    """Find the words `@FILE` of a prompt that name a regular file; a punctuation mark may follow.

    `@@FILE` stands for the text `@FILE`. All other words stay as they are, such as names of people and the
    `@@` of a diff.

    Returns:
        The prompt, and the files.
    """
    files: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        word = match[1].removeprefix("@")
        names = (word, word.rstrip(".,;:!?)]}'\""))
        found = next((name for name in names if name and os.path.isfile(os.path.expanduser(name))), None)  # noqa: PTH111, PTH113
        if found is None:
            return match[0]
        if match[1].startswith("@"):
            return match[1]
        files.append(found)
        return match[0]

    return re.sub(r"(?<!\S)@(\S+)", replaced, prompt), list(dict.fromkeys(files))


def note_missing_files(prompt: str, note: Callable[[str], None]) -> None:
    """Tell the user about words that look like `@FILE`, but name no file: they stay text."""
    for word in re.findall(r"(?<!\S)@([^\s@]\S*)", prompt):
        name = word.rstrip(".,;:!?)]}'\"")
        looks_like_a_file = name.startswith(("./", "../", "~/", "/")) or re.search(
            r"\.[A-Za-z]\w{0,4}$", name
        )
        if looks_like_a_file and not os.path.isfile(os.path.expanduser(name)):  # noqa: PTH111, PTH113
            note(f"There is no file {one_line(name, 200)}, so @{one_line(name, 200)} is only text.")


def read_files(
    paths: Sequence[str],
    stdin: StandardInput,
    read_url: Callable[[str], bytes],
    read_input: Callable[[str], list[bytes] | None] = lambda path: None,
) -> list[tuple[str, bytes]]:
    """Read the files of a prompt. Return the path and the bytes of each.

    Args:
        paths: Files; `-` is standard input. Web pages are read by `read_url`.
        stdin: Standard input.
        read_url: Returns the text of a web page.
        read_input: Returns the parts of an input of a plugin; None for a path of another kind.

    Raises:
        InputError: A file cannot be read, or together they have more than `MAX_INPUT` bytes.
    """
    files: list[tuple[str, bytes]] = []
    total = 0
    for path in paths:
        parts = read_input(path)
        if parts is None:
            parts = [read_url(path) if is_url(path) else read_file(path, stdin)]
        total += sum(map(len, parts))
        if total > MAX_INPUT:
            raise InputError(f"The files of -f together exceed the limit of {MAX_INPUT >> 20} MiB.")
        files += [(path, part) for part in parts]
    return files


def build_prompt(prompt: str | None, files: Sequence[tuple[str, bytes]], stdin: bytes | None) -> UserMessage:
    """Return the user's message.

    Raises:
        InputError: The prompt is empty, or a file is neither text nor an image.
    """
    images: list[ImageContent] = []
    texts: list[str] = []
    for path, data in files:
        name = "standard input" if path == "-" else path
        mime = image_type(data)
        if mime is None:
            text = _text(data, name, "-f takes text and images (PNG, JPEG, GIF, WebP).")
            shown = name if "://" in name else Path(name).name
            texts.append(f"<file name={shown!r}>\n{text.rstrip()}\n</file>")
        elif len(data) > MAX_IMAGE:
            raise InputError(f"{name} is an image of more than {MAX_IMAGE >> 20} MiB.")
        else:
            url = f"data:{mime};base64,{base64.b64encode(data).decode()}"
            images.append({"type": "image", "url": url, "mime_type": mime})
    if stdin is not None and stdin.strip():
        texts.append(_text(stdin, "standard input", "For an image: -f - < FILE").rstrip("\n"))
    if prompt is not None and prompt.strip():
        texts.append(prompt)
    if not texts and not images:
        raise InputError(
            "There is no prompt.",
            hint='Pass it as an argument or through a pipe: tinyagent run "What is …?"',
        )
    content: list[TextContent | ImageContent] = [*images]
    if texts:
        content.append({"type": "text", "text": "\n\n".join(texts)})
    return {"role": "user", "content": content, "timestamp": now_ms()}


def _text(data: bytes, name: str, hint: str) -> str:
    return decode_text(data, name, error=InputError, hint=hint)


def image_type(data: bytes) -> str | None:
    """Return the MIME type of an image that models accept; None for other data."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return None
