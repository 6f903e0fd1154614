"""The template of `-p`, and the prompt that is made of it. Only `-p`, `rpc` and `chat` import this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tinyagent.text_files import decode_text
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config.templates import (
    STDIN,
    FilledTemplate,
    Template,
    TemplateFile,
    TemplatePath,
    find_template,
    literal,
    read_template,
)
from tinyagent_cli.exit_codes import InputError

if TYPE_CHECKING:
    from tinyagent.agent_types import PromptTemplate, PromptVariable
    from tinyagent_cli.plugins.registry import PluginLoader, TemplateClaim

    from .schema_argument import WantedAnswer

__all__ = [
    "ChosenTemplate",
    "choose_template",
    "claim_text",
    "find_claim",
    "list_claims",
    "missing_values",
    "parse_values",
]


class ChosenTemplate(NamedTuple):
    """A template with the values of `-P`."""

    template: Template
    values: dict[str, str]

    @property
    def label(self) -> str:
        """The template in messages."""
        return f"the template {self.template.name!r}"

    def check(self, prompt: str | None, *, has_stdin: bool) -> None:
        """Check the variables. The error is that of `Template.check_values`."""
        self.template.check_values(self.values, prompt=bool(prompt), stdin=has_stdin)

    def answer(self) -> WantedAnswer | None:
        """Return the answer that the template asks for; None if it is text.

        Raises:
            TinyAgentError: The schema cannot be used.
        """
        place, content = self.template.place, self.template.content
        many = content.schema is None
        schema = content.schema_multi if many else content.schema
        if schema is None:
            return None
        from .schema_argument import read_template_schema

        where = f"{place.path}: {'schema_multi' if many else 'schema'}"
        return read_template_schema(where, schema, many=many, only_data=place.is_project)

    def fill_in(self, prompt: str | None, stdin: bytes | None) -> tuple[FilledTemplate, bytes | None]:
        """Return the texts for the model, and standard input if the template has no variable for it.

        Raises:
            InputError: Standard input is not text.
        """
        content, values = self.template.content, dict(self.values)
        if STDIN in content.variables and stdin is not None:
            hint = f"For an image: tinyagent run -p {self.template.name} -f - < FILE"
            values[STDIN] = decode_text(stdin, "standard input", error=InputError, hint=hint).strip("\n")
            stdin = None
        return content.fill_in(values, prompt), stdin


def parse_values(pairs: Sequence[str]) -> dict[str, str]:
    """Return the values of `-P NAME=VALUE`.

    Raises:
        InputError: A value is not written NAME=VALUE.
    """
    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise InputError(f"-P {pair}: write it as NAME=VALUE.")
        values[key.strip()] = value
    return values


def list_claims() -> dict[str, TemplateClaim]:
    """Return the templates of all plugins, and store their names for completion. This may start servers.

    Raises:
        TinyAgentError: A plugin failed.
    """
    from tinyagent_cli.config.known_templates import write_known

    claims = _loader().templates()
    write_known(claim.template for claim in claims.values())
    return dict(sorted(claims.items()))


def find_claim(name: str) -> TemplateClaim | None:
    """Return the template of this name that a plugin offers.

    Raises:
        TinyAgentError: The plugin failed.
    """
    return _loader().templates(name).get(name)


def _loader() -> PluginLoader:
    from tinyagent_cli.config.settings import load_settings
    from tinyagent_cli.plugins.registry import PluginLoader

    return PluginLoader.from_settings(load_settings())


def missing_values(
    template: PromptTemplate, values: Mapping[str, str], *, option: str = "-P "
) -> list[PromptVariable]:
    """Return the variables of a plugin's template that need a value.

    Raises:
        InputError: A value has the name of no variable. `option` comes before the name.
    """
    names = [variable.name for variable in template.variables]
    for name in values:
        if name not in names:
            raise InputError(
                f"{option}{name}: the template {template.name!r} has no variable of that name.",
                hint=_variables_hint(template),
            )
    return [each for each in template.variables if each.required and each.name not in values]


def _variables_hint(template: PromptTemplate) -> str:
    names = ", ".join(variable.name for variable in template.variables)
    return f"Its variables: {names}." if names else "It has no variables."


def claim_text(claim: TemplateClaim, values: Mapping[str, str]) -> str:
    """Return the prompt of a plugin's template for these values.

    Raises:
        TinyAgentError: The plugin failed.
    """
    from tinyagent_cli.plugins.registrations import filled_in

    return filled_in(claim.template, claim.plugin, values)


def _filled_in(claim: TemplateClaim, values: Mapping[str, str]) -> ChosenTemplate:
    """Return a plugin's template, whose prompt has the values already.

    Raises:
        InputError: A variable is unknown, or has no value.
        TinyAgentError: The plugin failed.
    """
    template = claim.template
    missing = [variable.name for variable in missing_values(template, values)]
    if missing:
        how = " ".join(f"-P {name}=…" for name in missing)
        raise InputError(
            f"The template {template.name!r} needs a value for {', '.join(missing)}: {how}",
            hint=_variables_hint(template),
        )
    text = literal(claim_text(claim, values))
    content = TemplateFile(description=template.description, prompt=text)
    place = TemplatePath(template.name, Path(template.name), is_project=False)
    return ChosenTemplate(Template(place, text, content), {})


def choose_template(app: AppContext, name: str, values: Mapping[str, str]) -> ChosenTemplate:
    """Read a template, for these values of its variables.

    Raises:
        TinyAgentError: There is no such template, or it is malformed.
    """
    if "/" in name:
        claim = find_claim(name)
        if claim is not None:
            app.detail(f"Using the template {name} of the plugin {claim.plugin}.")
            return _filled_in(claim, values)
    template = read_template(find_template(name))
    if template.place.is_project:
        app.note(f"Using the template {name} of this project: {template.place.path}")
    else:
        app.detail(f"Using the template {template.place.path}.")
    return ChosenTemplate(template, dict(values))
