"""Prompt templates: TOML or Markdown files with a model, a system prompt, tools, a schema and a prompt.

The user's templates are in the configuration directory, those of a project in `.tinyagent/templates` of the
working directory. A project's templates usually come with another person's repository, so they are only data:
they cannot name code, and they cannot replace a template of the user.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec import field, structs

from tinyagent.agent_types import JsonDict
from tinyagent.errors import ConfigurationError
from tinyagent.text_files import read_config
from tinyagent_cli.exit_codes import InputError

from .environment import config_directory
from .files import Table, decode_toml, names_a_file, split_model
from .known_templates import read_known

__all__ = [
    "PROJECT_TEMPLATES",
    "PROMPT",
    "STDIN",
    "SUFFIXES",
    "FilledTemplate",
    "Template",
    "TemplateFile",
    "TemplatePath",
    "all_templates",
    "check_name",
    "decode_template",
    "find_template",
    "literal",
    "lookup_template",
    "read_template",
    "user_templates",
]

PROJECT_TEMPLATES = Path(".tinyagent", "templates")
SUFFIXES = (".md", ".toml")

PROMPT = "prompt"
"""The variable of the prompt of the command line."""
STDIN = "stdin"
"""The variable of piped standard input."""

_VARIABLE = r'\{\{[ \t]*(?:(?P<name>[^\W\d][\w-]*)|"(?P<text>[^"\n]*)")[ \t]*\}\}'
_FENCE = "+++"


class FilledTemplate(NamedTuple):
    """The texts of a template with the values of its variables; None for a text that it does not have."""

    prompt: str | None
    system: str | None


class TemplateFile(Table, frozen=True):
    """The content of a template.

    Attributes:
        description: What it is for, in a line.
        model: The model, `PROVIDER/ID` or an alias.
        system: The system prompt.
        tools: The tools.
        schema: The schema of the answer, as in `--schema`.
        schema_multi: The schema of each answer, as in `--schema-multi`.
        prompt: The prompt. In Markdown it is the text below the front matter.
        defaults: The values of variables without `-P`.
    """

    description: str = ""
    model: str | None = None
    system: str | None = None
    tools: list[str] | None = None
    schema: str | JsonDict | None = None
    schema_multi: str | JsonDict | None = None
    prompt: str | None = None
    defaults: dict[str, str | int | float] = field(default_factory=dict)

    @property
    def variables(self) -> list[str]:
        """The variables of the prompt and the system prompt, in the order of their first use."""
        texts = (self.prompt or "", self.system or "")
        names = [match["name"] for text in texts for match in re.finditer(_VARIABLE, text)]
        return list(dict.fromkeys(filter(None, names)))

    def fill_in(self, values: Mapping[str, str], prompt: str | None) -> FilledTemplate:
        """Return the texts with the values of the variables, which are not searched again.

        Args:
            values: The values; other variables have their defaults.
            prompt: The prompt of the user. It comes last, unless the template has a variable for it.
        """
        known = {**{name: str(value) for name, value in self.defaults.items()}, **values}
        if prompt:
            known[PROMPT] = prompt

        def filled(text: str) -> str:
            return re.sub(_VARIABLE, lambda match: match["text"] or known.get(match["name"] or "", ""), text)

        texts = [] if self.prompt is None else [filled(self.prompt)]
        if prompt and PROMPT not in self.variables:
            texts.append(prompt)
        system = None if self.system is None else filled(self.system).strip()
        return FilledTemplate("\n\n".join(texts) or None, system)


class TemplatePath(NamedTuple):
    """Where a template is.

    Attributes:
        name: Its name, which is the name of the file without the suffix.
        path: The file.
        is_project: Whether it belongs to the project.
    """

    name: str
    path: Path
    is_project: bool


class Template(NamedTuple):
    """A template that is read and valid."""

    place: TemplatePath
    text: str
    content: TemplateFile

    @property
    def name(self) -> str:
        """The name."""
        return self.place.name

    def check_values(
        self, values: Mapping[str, str], *, prompt: bool, stdin: bool, option: str = "-P "
    ) -> None:
        """Check that each value belongs to a variable, and that no variable is without a value.

        Args:
            values: The values of `-P`.
            prompt: Whether the command line has a prompt.
            stdin: Whether standard input has a text.
            option: What comes before the name of a variable in an error.

        Raises:
            InputError: A variable is unknown, or has no value.
        """
        variables, defaults = self.content.variables, self.content.defaults
        for name in values:
            if name in (PROMPT, STDIN):
                source = "the argument PROMPT" if name == PROMPT else "standard input"
                raise InputError(f"{option}{name}: the value of this variable is {source}.")
            if name not in variables:
                raise InputError(
                    f"{option}{name}: the template {self.name!r} has no variable of that name.",
                    hint=self._known,
                )
        have = {*values, *defaults, *([PROMPT] if prompt else []), *([STDIN] if stdin else [])}
        missing = [name for name in variables if name not in have]
        if PROMPT in missing:
            raise InputError(f"The template {self.name!r} needs a prompt.", hint=self._known)
        if STDIN in missing:
            raise InputError(
                f"The template {self.name!r} needs a text on standard input.",
                hint=f"For example: tinyagent run -p {self.name} < FILE",
            )
        if missing:
            how = " ".join(f"{option}{name}=…" for name in missing)
            raise InputError(
                f"The template {self.name!r} needs a value for {', '.join(missing)}: {how}", hint=self._known
            )

    @property
    def _known(self) -> str:
        """All variables, in words."""
        variables, defaults = self.content.variables, self.content.defaults
        if not variables:
            return "It has no variables."
        names = [
            f"{name} (default {str(defaults[name])!r})" if name in defaults else name for name in variables
        ]
        return f"Its variables: {', '.join(names)}."


def literal(text: str) -> str:
    """Return a text of a template in which no part is a variable."""
    return text.replace("{{", '{{ "{{" }}')


# ---- find -----------------------------------------------------------------------------------------------


def user_templates() -> Path:
    """Return the directory of the user's templates."""
    return config_directory() / "templates"


def all_templates() -> list[TemplatePath]:
    """Return all templates of the user, then those of the project, by name.

    Raises:
        ConfigurationError: A directory cannot be read.
    """
    return [*_in(user_templates(), is_project=False), *_in(PROJECT_TEMPLATES, is_project=True)]


def _in(directory: Path, *, is_project: bool) -> Iterator[TemplatePath]:
    try:
        paths = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ConfigurationError(f"{directory} cannot be read: {error.strerror}.") from None
    for path in paths:
        if path.suffix in SUFFIXES and _is_name(path.stem):
            yield TemplatePath(path.stem, path, is_project)


def lookup_template(name: str) -> TemplatePath | None:
    """Return the template with this name; one of the user takes precedence. None if it does not exist.

    Raises:
        ConfigurationError: A directory has two files for this name, or cannot be read.
    """
    found = [place for place in all_templates() if place.name == name]
    same = [place for place in found if place.is_project == found[0].is_project]
    if len(same) > 1:
        raise ConfigurationError(
            f"The template {name!r} has two files: {same[0].path} and {same[1].path.name}.",
            hint="Remove or rename one of them.",
        )
    return found[0] if found else None


def find_template(name: str) -> TemplatePath:
    """Return the template with this name, as `lookup_template` does.

    Raises:
        InputError: It does not exist.
    """
    found = lookup_template(name)
    if found is not None:
        return found
    known = list(dict.fromkeys(place.name for place in all_templates()))
    hint: str | None
    if "/" in name:
        known += [template.name for template in read_known()]
    if re.search(r"\s", name):
        hint = "-p takes the name of a template. A prompt is an argument without -p."
    elif known:
        from tinyagent_cli.terminal.hints import nearest

        near = nearest(name, known)
        hint = f"Did you mean {near!r}?" if near else f"Templates: {', '.join(known)}."
    else:
        hint = f"To write it: tinyagent templates edit {name}" if _is_name(name) else None
    raise InputError(f"There is no template {name!r}.", hint=hint)


def check_name(name: str) -> None:
    """Check the name of a new template.

    Raises:
        InputError: It is not a valid name.
    """
    if not _is_name(name):
        raise InputError(
            f"{name!r} cannot be the name of a template.", hint="Use letters, digits, '-' and '_'."
        )


def _is_name(name: str) -> bool:
    return re.fullmatch(r"\w[\w-]*", name) is not None


# ---- read -----------------------------------------------------------------------------------------------


def read_template(place: TemplatePath) -> Template:
    """Read a template.

    Raises:
        ConfigurationError: It is malformed, others can write it, or a project's template names code.
    """
    path = place.path
    if place.is_project and path.resolve() != Path.cwd().resolve() / path:
        # It could be any file of the user, whose text would be sent to the model.
        raise ConfigurationError(f"{path} is or is below a symbolic link, so it is not used.")
    text = read_config(path)
    if text is None:
        raise ConfigurationError(f"{path} does not exist.")
    return Template(place, text, decode_template(text, place))


def decode_template(text: str, place: TemplatePath) -> TemplateFile:
    """Decode the text of a template. The errors are those of `read_template`."""
    path = place.path
    if path.suffix == ".toml":
        content = decode_toml(text, path, TemplateFile)
    else:
        head, body = _split(text, path)
        content = decode_toml(head, path, TemplateFile)
        if content.prompt is not None:
            raise ConfigurationError(
                f"{path}: unknown key 'prompt'. In Markdown, the prompt is the text below the front matter."
            )
        content = structs.replace(content, prompt=body.strip() or None)
    _check(content, path)
    if place.is_project:
        _check_is_data(content, path)
    return content


def _split(text: str, path: Path) -> tuple[str, str]:
    """Split Markdown into front matter and text. The lines of the front matter keep their numbers."""
    lines = text.split("\n")
    first = lines[0].rstrip()
    if first == "---":
        raise ConfigurationError(
            f"{path} begins with ---. The front matter of a template is TOML, between lines of {_FENCE}."
        )
    if first != _FENCE:
        return "", text
    for number, line in enumerate(lines[1:], 1):
        if line.rstrip() == _FENCE:
            return "\n".join(["", *lines[1:number]]), "\n".join(lines[number + 1 :])
    raise ConfigurationError(f"{path}: the front matter has no end, which is a line of {_FENCE}.")


def _check(content: TemplateFile, path: Path) -> None:
    for text in (content.prompt or "", content.system or ""):
        rest = re.sub(_VARIABLE, lambda match: " " * len(match[0]), text)
        if "{{" in rest:
            at = rest.index("{{")
            wrong = text[at : at + 40].split("\n")[0]
            raise ConfigurationError(
                f"{path}: {wrong!r} is not a variable, which is written {{{{ name }}}}.",
                hint='To write {{ as text: {{ "{{" }}',
            )
    variables = content.variables
    for name in content.defaults:
        if name not in variables:
            raise ConfigurationError(
                f"{path}: defaults.{name}: the template has no variable of that name.",
                hint=f"It has: {', '.join(variables)}." if variables else None,
            )
    if content.schema is not None and content.schema_multi is not None:
        raise ConfigurationError(f"{path}: schema and schema_multi cannot be used together.")


def _check_is_data(content: TemplateFile, path: Path) -> None:
    """Refuse what a project must not choose. A schema is checked when it is read."""
    for name in content.tools or ():
        if names_a_file(name):
            raise ConfigurationError(
                f"{path}: tools: {name!r} is a file. A template of a project can only name installed tools, "
                "because otherwise its code would run without your request.",
                hint=f"To use it: tinyagent run -p {path.stem} -t {name}",
            )
    if content.model is not None and split_model(content.model)[0] == "replay":
        raise ConfigurationError(
            f"{path}: model: a template of a project cannot choose a replay.",
            hint=f"To use it: tinyagent run -p {path.stem} -m replay:FILE",
        )
