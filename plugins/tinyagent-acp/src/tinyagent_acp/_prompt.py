"""The prompt of an editor as a message of `tinyagent rpc`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote, urlsplit

from acp.schema import (
    AudioContentBlock,
    EmbeddedResourceContentBlock,
    ImageContentBlock,
    ResourceContentBlock,
    TextContentBlock,
    TextResourceContents,
)

from ._errors import invalid_params

__all__ = ["PromptBlock", "PromptMessage", "message_of", "slash_command"]

PromptBlock: TypeAlias = (
    TextContentBlock
    | ImageContentBlock
    | AudioContentBlock
    | ResourceContentBlock
    | EmbeddedResourceContentBlock
)


class PromptMessage(NamedTuple):
    """A text, and the images before it."""

    text: str
    images: list[dict[str, str]]


def message_of(blocks: Sequence[PromptBlock], folder: str) -> PromptMessage:
    """Return the message of a prompt.

    A link to a file becomes its path, so that the model can read it with a tool. An embedded file becomes its
    text, with its path in front.

    Args:
        blocks: The prompt.
        folder: The folder of the session.

    Raises:
        RequestError: A block can not be sent to a model.
    """
    inline: list[str] = []
    attached: list[str] = []
    images: list[dict[str, str]] = []
    for block in blocks:
        match block:
            case TextContentBlock():
                inline.append(block.text)
            case ImageContentBlock():
                images.append(_image(block.data, block.mime_type))
            case ResourceContentBlock():
                inline.append(f"[@{block.name}]({place_of(block.uri, folder)})")
            case EmbeddedResourceContentBlock(resource=TextResourceContents() as resource):
                place = place_of(resource.uri, folder)
                inline.append(f"[@{place}]({place})")
                attached.append(f'<file path="{place}">\n{resource.text.rstrip()}\n</file>')
            case EmbeddedResourceContentBlock(resource=resource):
                kind = resource.mime_type or ""
                if not kind.startswith("image/"):
                    raise invalid_params(
                        f"{resource.uri} cannot be sent to the model: it is neither a text nor an image."
                    )
                images.append(_image(resource.blob, kind))
            case _:
                raise invalid_params("Audio cannot be sent to the model.")
    return PromptMessage("\n\n".join(["".join(inline), *attached]).strip(), images)


def slash_command(blocks: Sequence[PromptBlock]) -> tuple[str, str] | None:
    """Return the name and the argument of a prompt such as `/name argument`; None for any other prompt."""
    if not blocks or not isinstance(blocks[0], TextContentBlock) or not blocks[0].text.startswith("/"):
        return None
    name, _, rest = blocks[0].text[1:].partition(" ")
    return (name.strip(), rest.strip()) if name.strip() else None


def place_of(uri: str, folder: str) -> str:
    """Return a `file:` URI as a path, relative to the folder if it is in it. Other URIs do not change."""
    parts = urlsplit(uri)
    if parts.scheme != "file":
        return uri
    path = unquote(parts.path)
    return os.path.relpath(path, folder) if Path(path).is_relative_to(folder) else path


def _image(data: str, kind: str) -> dict[str, str]:
    return {"type": "image", "data": data, "mimeType": kind}
