"""What the model is asked: files, piped standard input and the prompt, in this order.

Standard input belongs to one thing at a time: `--history -`, `-f -`, or the text before the prompt.
"""

from __future__ import annotations

import base64
import codecs
import os
import select
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tinyagent._message_builder import now_ms

from .failures import InputError

__all__ = ["build_prompt", "read_file", "read_stdin", "stdin_is_piped"]

MAX_IMAGE = 32 * 1024 * 1024
"""Bytes; no provider takes more, and the request holds it a third larger."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WAITING = "Waiting for standard input, which is put before the prompt (--no-stdin goes on without it) …"


def stdin_is_piped() -> bool:
    """Whether somebody sends something: a pipe, a socket or a file, but no terminal and no device."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return sys.stdin is not None and (stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode))


def read_stdin(note: Callable[[str], None]) -> bytes:
    """All of standard input. If its first byte takes more than a second, `note` is told."""
    try:
        if not select.select([0], [], [], 1.0)[0]:
            note(_WAITING)
        chunks = []
        while chunk := os.read(0, 1 << 16):
            chunks.append(chunk)
    except OSError as error:
        raise InputError(f"Standard input cannot be read: {error.strerror}.") from None
    return b"".join(chunks)


def read_file(path: str, note: Callable[[str], None]) -> bytes:
    """The bytes of a file; `-` is standard input."""
    if path == "-":
        return read_stdin(note)
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from None


def build_prompt(
    prompt: str | None, files: Sequence[tuple[str, bytes]], stdin: bytes | None
) -> dict[str, Any]:
    """The user's message.

    Raises:
        InputError: there is nothing to ask, or a file is neither text nor an image.
    """
    images: list[dict[str, Any]] = []
    texts: list[str] = []
    for path, data in files:
        name = "standard input" if path == "-" else path
        mime = _image_type(data)
        if mime is None:
            text = _text(data, name, "-f takes text and images (PNG, JPEG, GIF, WebP).")
            texts.append(f"<file name={Path(name).name!r}>\n{text.rstrip()}\n</file>")
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
            hint='Give it as an argument or through a pipe: tinyagent run "What is …?"',
        )
    content: list[dict[str, Any]] = [*images]
    if texts:
        content.append({"type": "text", "text": "\n\n".join(texts)})
    return {"role": "user", "content": content, "timestamp": now_ms()}


def _text(data: bytes, name: str, hint: str) -> str:
    encoding = next((known for mark, known in _BOMS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise InputError(f"{name} is not text (UTF-8).", hint=hint) from None
    if "\0" in text:
        raise InputError(f"{name} is binary, not text.", hint=hint)
    return text


def _image_type(data: bytes) -> str | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return None
