"""The prompt of each item: its own, or a template with its variables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from tinyagent import _json
from tinyagent.agent_types import JsonValue
from tinyagent.executors import BatchItem
from tinyagent.text_files import read_bytes
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config.templates import (
    PROMPT,
    STDIN,
    FilledTemplate,
    TemplateFile,
    TemplatePath,
    decode_template,
)
from tinyagent_cli.exit_codes import InputError
from tinyagent_cli.run.prompt_input import MAX_INPUT
from tinyagent_cli.run.template_choice import choose_template, parse_values

__all__ = ["ItemTemplate", "checked", "inline_template", "read_item_files", "stored_template"]


class ItemTemplate(msgspec.Struct, frozen=True):
    """A template for all items. It is complete: a worker needs no file.

    Attributes:
        name: Its name, for messages.
        content: Its texts and the values of variables that have a default.
        values: The values of `-P`.
    """

    name: str
    content: TemplateFile
    values: dict[str, str]

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return the variables without a value if an item has variables of these names."""
        have = {*names, *self.values, *self.content.defaults, "id"}
        return [name for name in self.content.variables if name not in have]

    def missing_for(self, item: BatchItem) -> list[str]:
        """Return the variables without a value for an item."""
        return self.missing([*item.variables, *([PROMPT] if item.prompt else [])])

    def fill_in(self, item: BatchItem) -> FilledTemplate:
        """Return the texts for an item. Values that are not texts are inserted as JSON.

        Raises:
            InputError: A variable has no value.
        """
        values = {name: _as_text(value) for name, value in item.variables.items()}
        missing = self.missing_for(item)
        if missing:
            raise InputError(f"There is no value for {', '.join(missing)}, which {self.name} needs.")
        return self.content.fill_in({**self.values, **values, "id": item.id}, item.prompt)


def _as_text(value: JsonValue) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else _json.encode(value).decode()


def inline_template(text: str, parameters: tuple[str, ...]) -> ItemTemplate:
    """Return the template of `--prompt`.

    Raises:
        TinyAgentError: It is malformed.
    """
    content = decode_template(text, TemplatePath("--prompt", Path("--prompt"), False))
    return checked(ItemTemplate("--prompt", content, parse_values(parameters)))


def stored_template(app: AppContext, name: str, parameters: tuple[str, ...]) -> ItemTemplate:
    """Return the template of `-p`.

    Raises:
        TinyAgentError: There is no such template, or it is malformed.
    """
    chosen = choose_template(app, name, parse_values(parameters))
    return checked(ItemTemplate(chosen.label, chosen.template.content, chosen.values))


def checked(template: ItemTemplate) -> ItemTemplate:
    """Return a template whose `-P` all have a variable.

    Raises:
        InputError: A variable is unknown, or its value is standard input.
    """
    variables = template.content.variables
    for name in template.values:
        if name not in variables:
            raise InputError(f"-P {name}: {template.name} has no variable of that name.")
    if STDIN in variables:
        raise InputError(f"A batch has no text on standard input, which {template.name} needs.")
    return template


def read_item_files(paths: Sequence[str]) -> list[tuple[str, bytes]]:
    """Read the files of an item.

    They are inside the working directory: the input may come from elsewhere, and must not choose any file of
    the user, whose text is sent to the model.

    Raises:
        InputError: A file is elsewhere, or cannot be read.
    """
    root = Path.cwd().resolve()
    files = []
    for path in paths:
        target = Path(path).resolve()
        if not target.is_relative_to(root):
            raise InputError(
                f"The file {path} is outside the working directory.",
                hint="Run the command in a folder that has all files of the input.",
            )
        files.append((path, read_bytes(target, limit=MAX_INPUT, name=path, error=InputError)))
    return files
