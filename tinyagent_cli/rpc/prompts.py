"""The messages of a client: text, images, and templates."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from msgspec import UNSET

from tinyagent.agent_types import ImageContent, UserMessage
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config.templates import STDIN
from tinyagent_cli.exit_codes import InputError
from tinyagent_cli.run.prompt_input import build_prompt, image_type
from tinyagent_cli.run.template_choice import choose_template

from .protocol import Image

if TYPE_CHECKING:
    from tinyagent_cli.run.schema_argument import WantedAnswer

__all__ = ["TemplatePrompt", "message_of", "template_prompt"]


class TemplatePrompt(NamedTuple):
    """What a template sets for one run. None sets nothing."""

    text: str
    system: str | None
    model: str | None
    tools: list[str] | None
    answer: WantedAnswer | None


def message_of(text: str, images: Sequence[Image]) -> UserMessage:
    """Return the user's message.

    Raises:
        InputError: It is empty, or an image is malformed.
    """
    blocks = [_image(image, f"images[{number}]") for number, image in enumerate(images)]
    if not text.strip():
        if not blocks:
            raise InputError("There is no prompt.", hint='The text is the "message" of the command.')
        return {**build_prompt("-", (), None), "content": [*blocks]}
    message = build_prompt(text, (), None)
    return {**message, "content": [*blocks, *message["content"]]}


def template_prompt(
    app: AppContext, name: str, parameters: Mapping[str, str | int | float], message: str
) -> TemplatePrompt:
    """Return what a template sets. `stdin` is a variable like any other here, and `prompt` is the message.

    Raises:
        TinyAgentError: There is no such template, it is malformed, or a variable has no value.
    """
    values = {key: str(value) for key, value in parameters.items()}
    chosen = choose_template(app, name, values)
    stdin = chosen.values.pop(STDIN, None) if STDIN in chosen.template.content.variables else None
    chosen.template.check_values(
        chosen.values, prompt=bool(message.strip()), stdin=stdin is not None, option="parameters."
    )
    filled, _ = chosen.fill_in(message, None if stdin is None else stdin.encode())
    content = chosen.template.content
    return TemplatePrompt(filled.prompt or "", filled.system, content.model, content.tools, chosen.answer())


def _image(image: Image, place: str) -> ImageContent:
    """Return an image as a block. Its type is that of its bytes; one on the web is not read."""
    if (image.data is UNSET) == (image.url is UNSET):
        raise InputError(f'{place} needs either "data" with "mimeType", or "url".')
    if image.url is not UNSET:
        if image.url.startswith(("https://", "http://")):
            return {"type": "image", "url": image.url}
        head, comma, data = image.url.partition(",")
        if not (head.startswith("data:") and head.endswith(";base64") and comma):
            raise InputError(f"{place}.url is neither an https nor a data URL in base64.")
    else:
        assert image.data is not UNSET
        data = image.data
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{place} is not base64: {error}.") from None
    kind = image_type(content)
    if kind is None:
        raise InputError(f"{place} is not a PNG, JPEG, GIF or WebP image.")
    return {"type": "image", "url": f"data:{kind};base64,{data}", "mime_type": kind}
