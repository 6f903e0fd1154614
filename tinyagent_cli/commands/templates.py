"""`tinyagent templates`: prompt templates."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.shell_completion import complete_templates
from tinyagent_cli.terminal.tables import print_json, print_table

from .options import TextArgument, command_group, common_options, json_option

if TYPE_CHECKING:
    from pathlib import Path

    from tinyagent.agent_types import JsonDict
    from tinyagent_cli.config.templates import TemplatePath
    from tinyagent_cli.plugins.registry import TemplateClaim

__all__ = ["templates"]

_NEW_MARKDOWN = """\
+++
description = ""
# model = "openai/gpt-5"
# system = "You are brief."
# tools = ["calc"]
# schema = "name, age int, tags list"

[defaults]
language = "English"
+++
Summarise this text in {{ language }}: {{ stdin }}
"""

_NEW_TOML = '''\
description = ""
# model = "openai/gpt-5"
# system = "You are brief."
# tools = ["calc"]
# schema = "name, age int, tags list"
prompt = """
Summarise this text in {{ language }}: {{ stdin }}
"""

[defaults]
language = "English"
'''


@command_group()
def templates() -> None:
    """Show and write prompt templates, which `tinyagent run -p NAME` uses. docs/templates.md describes them.

    Your templates are in the configuration directory, those of a project in .tinyagent/templates of the
    working directory. If both have the same name, yours is used.
    """


@templates.command("list")
@json_option
@common_options
@click.pass_obj
def list_templates(app: AppContext, as_json: bool) -> None:
    """List the templates: yours first, then those of the project and of plugins."""
    from tinyagent_cli.config.templates import PROJECT_TEMPLATES, all_templates, user_templates

    places = all_templates()
    own = {place.name for place in places if not place.is_project}
    rows = [_described(place, hidden=place.is_project and place.name in own) for place in places]
    rows += [_of_plugin(claim) for claim in _claims(app).values()]
    if as_json:
        print_json(rows)
    elif not rows:
        app.note(f"There are no templates in {user_templates()} and {PROJECT_TEMPLATES}.")
    else:
        print_table(
            ("NAME", "FROM", "VARIABLES", "DESCRIPTION"),
            [
                (
                    row["name"],
                    row["source"],
                    ", ".join(row["variables"]),
                    row["description"]
                    + (f"({row['problem']})" if row["problem"] else "")
                    + (" (not used: yours has the same name)" if row["hidden"] else ""),
                )
                for row in rows
            ],
        )


def _claims(app: AppContext) -> dict[str, TemplateClaim]:
    from tinyagent.errors import TinyAgentError
    from tinyagent_cli.plugins.discovery import find
    from tinyagent_cli.run.template_choice import list_claims

    if not find("inputs"):
        return {}
    try:
        return list_claims()
    except TinyAgentError as error:
        app.warn(f"The templates of plugins are missing: {error}")
        return {}


def _of_plugin(claim: TemplateClaim) -> JsonDict:
    template = claim.template
    return {
        "name": template.name,
        "path": None,
        "source": claim.plugin.name,
        "hidden": False,
        "problem": None,
        "model": None,
        "tools": None,
        "description": template.description,
        "variables": [variable.name for variable in template.variables],
    }


def _described(place: TemplatePath, *, hidden: bool) -> JsonDict:
    from msgspec import UNSET, structs

    from tinyagent.errors import TinyAgentError
    from tinyagent_cli.config.templates import TemplateFile, read_template

    problem: str | None = None
    try:
        content = read_template(place).content
    except TinyAgentError as error:
        content, problem = TemplateFile(), str(error)
    fields = {name: value for name, value in structs.asdict(content).items() if value not in (None, UNSET)}
    return {
        "name": place.name,
        "path": str(place.path.absolute()),
        "source": "project" if place.is_project else "user",
        "hidden": hidden,
        "problem": problem,
        **{"model": None, "tools": None, **fields},
        "variables": content.variables,
    }


@templates.command()
@click.argument("name", type=TextArgument(), shell_complete=complete_templates)
@common_options
@click.pass_obj
def show(app: AppContext, name: str) -> None:
    """Print the file of a template, or the variables of a plugin's template."""
    from tinyagent_cli.config.templates import find_template, read_template
    from tinyagent_cli.terminal.output import take_stdout
    from tinyagent_cli.terminal.sanitise import clean

    claim = _claims(app).get(name) if "/" in name else None
    text = _facts(claim) if claim is not None else read_template(find_template(name)).text
    output = take_stdout()
    text = text if text.endswith("\n") else f"{text}\n"
    output.write_or_raise((clean(text) if output.is_terminal else text).encode())


def _facts(claim: TemplateClaim) -> str:
    """Return what is known about a plugin's template. Its text depends on the variables."""
    template = claim.template
    lines = [f"A template of the plugin {claim.plugin}.", template.description]
    for variable in template.variables:
        about = f"  -P {variable.name}=…  {'' if variable.required else '(optional) '}{variable.description}"
        lines.append(about.rstrip())
    return "\n".join(line for line in lines if line)


@templates.command()
@click.argument("name", type=TextArgument(), shell_complete=complete_templates)
@click.option("--project", is_flag=True, help="A new template is for this project, not for you.")
@common_options
@click.pass_obj
def edit(app: AppContext, name: str, project: bool) -> None:
    """Open a template in $VISUAL or $EDITOR. If NAME does not exist, write a new one.

    A new template is Markdown, or TOML for NAME.toml.
    """
    from tinyagent_cli.config.templates import lookup_template, read_template

    stem, suffix = _split_name(name)
    place = _new_place(stem, suffix, project=project)
    found = lookup_template(stem)
    if found is not None and (found.is_project or not project):
        place = found
    _need_editor(place.path)
    if place.path.exists():
        with _editor_errors():
            click.edit(filename=str(place.path))
    else:
        from tinyagent.text_files import write_private

        new = _NEW_TOML if place.path.suffix == ".toml" else _NEW_MARKDOWN
        with _editor_errors():
            text = click.edit(new, extension=place.path.suffix)
        if text is None:
            app.note("The text was not saved, so there is no new template.")
            return
        try:
            write_private(place.path, text.encode())
        except OSError as error:
            raise _unwritable(place.path, error) from None
    read_template(place)
    app.note(f"The template is in {place.path}. To use it: tinyagent run -p {place.name}")


@templates.command()
@click.argument("name", required=False, type=TextArgument(), shell_complete=complete_templates)
@common_options
def path(name: str | None) -> None:
    """Print the file of a template, or the directory of yours."""
    from tinyagent_cli.config.templates import find_template, user_templates

    click.echo(str(user_templates() if name is None else find_template(name).path.absolute()))


def _split_name(name: str) -> tuple[str, str]:
    from tinyagent_cli.config.templates import SUFFIXES, check_name

    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
    stem = name.removesuffix(suffix)
    check_name(stem)
    return stem, suffix or SUFFIXES[0]


def _new_place(stem: str, suffix: str, *, project: bool) -> TemplatePath:
    from tinyagent_cli.config.templates import PROJECT_TEMPLATES, TemplatePath, user_templates

    directory = PROJECT_TEMPLATES if project else user_templates()
    return TemplatePath(stem, directory / f"{stem}{suffix}", project)


def _need_editor(path: Path) -> None:
    """Refuse to start an editor without a terminal, unless the user has named one."""
    from tinyagent_cli.config.environment import variable
    from tinyagent_cli.exit_codes import InputError

    has_terminal = sys.stdin is not None and sys.stdin.isatty()
    if not (has_terminal or variable("VISUAL") or variable("EDITOR")):
        raise InputError(
            "There is no terminal, and neither VISUAL nor EDITOR is set.",
            hint=f"Write the file yourself: {path}",
        )


@contextmanager
def _editor_errors() -> Iterator[None]:
    """Explain why an editor cannot be used."""
    from tinyagent_cli.exit_codes import InputError

    try:
        yield
    except click.ClickException as error:
        cause = error.__cause__
        reason = f"{cause.filename}: {cause.strerror}" if isinstance(cause, OSError) else None
        raise InputError(
            f"The editor cannot be used: {reason or error.format_message()}.",
            hint="Choose another one, for example: EDITOR=nano",
        ) from None


def _unwritable(path: Path, error: OSError) -> Exception:
    from tinyagent_cli.exit_codes import WriteError

    return WriteError(f"Cannot write {path}: {error.strerror or error}.")
