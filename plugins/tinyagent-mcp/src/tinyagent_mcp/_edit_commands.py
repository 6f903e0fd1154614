"""`tinyagent mcp add`, `remove` and `import`: change `mcp.toml`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import click
import msgspec

from tinyagent import ConfigurationError
from tinyagent.agent_types import JsonObject
from tinyagent.text_files import MAX_CONFIG_BYTES, decode_text, read_bytes, read_descriptor

from ._config import ServerConfig
from ._edit import add_server, remove_server, stored_names
from ._import import Imported, LeftOut, read_servers
from ._paths import absolute, config_file
from ._secrets import has_secret, secret_argument

__all__ = ["add", "complete_servers", "import_servers", "plain", "remove"]


def complete_servers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of the servers of the file."""
    try:
        return [name for name in stored_names() if name.startswith(incomplete)]
    except ConfigurationError:
        return []


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("name")
@click.argument("command", nargs=-1, required=True, metavar="COMMAND|URL [ARGUMENT]...")
@click.option(
    "-e", "--env", multiple=True, metavar="NAME=VALUE", help="A variable of the server. Repeatable."
)
@click.option(
    "--pass-env", multiple=True, metavar="NAME",
    help="Pass on this variable of your environment. Repeatable.",
)  # fmt: skip
@click.option(
    "-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'",
    help="A header of each request to the URL. Repeatable.",
)  # fmt: skip
@click.option("--cwd", metavar="DIRECTORY", help="Start the server here; . is the working directory.")
@click.option("--tool", "tools", multiple=True, metavar="PATTERN", help="Use only these tools. Repeatable.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Do not use these tools. Repeatable.")
@click.option("--required", is_flag=True, help="A run fails if the server cannot be used.")
@click.option("--force", is_flag=True, help="Replace a server of this name.")
def add(
    name: str,
    command: tuple[str, ...],
    env: tuple[str, ...],
    pass_env: tuple[str, ...],
    headers: tuple[str, ...],
    cwd: str | None,
    tools: tuple[str, ...],
    exclude: tuple[str, ...],
    required: bool,
    force: bool,
) -> None:
    """Add a server to the configuration. Options come before NAME.

    \b
      tinyagent mcp add time uvx mcp-server-time
      tinyagent mcp add --pass-env GITHUB_TOKEN github npx -y @modelcontextprotocol/server-github
      tinyagent mcp add -H 'Authorization: Bearer ${TRACKER_TOKEN}' tracker https://mcp.example.org/mcp

    A secret is not written to the file: refer to a variable of your environment as ${NAME}.
    """
    if command[0].startswith("-"):
        raise ConfigurationError(
            f"{command[0]!r} cannot be a command.",
            hint="The options of `tinyagent mcp add` come before NAME.",
        )
    table = _target(command)
    misplaced = (("--header", headers),) if "command" in table else (("--env", env), ("--pass-env", pass_env))
    for option, given in misplaced:
        if given:
            raise ConfigurationError(
                f"{option} is for a {'URL' if option == '--header' else 'command'}, but {name} is "
                f"{'started by a command' if 'command' in table else 'a URL'}."
            )
    variables = dict(_pair(text, "=", "--env", "NAME=VALUE") for text in env)
    fields = dict(_pair(text, ":", "--header", "'NAME: VALUE'") for text in headers)
    for option, values in (("env", variables), ("headers", fields)):
        _refuse_secrets(option, values)
        if values:
            table[option] = {**values}
    if pass_env:
        table["pass_env"] = list(pass_env)
    if cwd is not None:
        table["cwd"] = cwd if cwd == "." else absolute(cwd)
    if tools:
        table["tools"] = list(tools)
    if exclude:
        table["exclude"] = list(exclude)
    if required:
        table["required"] = True
    server = add_server(name, table, replace=force)
    click.echo(f"Added {name} to {config_file()}: {_shown(server)}", err=True)
    click.echo(f"To try it: tinyagent mcp test {name}", err=True)


def _target(command: Sequence[str]) -> JsonObject:
    """Return the `command` or `url` of a server."""
    is_url = command[0].startswith(("http://", "https://"))
    if is_url and len(command) > 1:
        raise ConfigurationError(
            f"A URL has no arguments, but {command[1]!r} follows it.",
            hint="The options of `tinyagent mcp add` come before NAME.",
        )
    words = shlex.split(command[0]) if len(command) == 1 and not is_url else list(command)
    if (secret := secret_argument(words)) is not None:
        raise ConfigurationError(
            f"The {'URL' if is_url else 'command'} seems to have a secret ({secret}), and the file would get "
            "a copy of it.",
            hint="Give it to the server by a variable (--pass-env NAME) or by a header that refers to one. "
            f"If it is no secret, write the server to {config_file()} yourself.",
        )
    return {"url": command[0]} if is_url else {"command": [absolute(word) for word in words]}


def _pair(text: str, separator: str, option: str, form: str) -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not found or not name.strip():
        raise ConfigurationError(f"{option} {name}: write it as {form}.")
    return name.strip(), value.strip() if separator == ":" else value


def _refuse_secrets(option: str, values: dict[str, str]) -> None:
    for name, value in values.items():
        if has_secret(name, value):
            variable = re.sub(r"\W", "_", name).upper()
            how = (
                f"--pass-env {name}, or -e {name}='${{{variable}}}'"
                if option == "env"
                else f"-H '{name}: Bearer ${{{variable}}}'"
            )
            raise ConfigurationError(
                f"The value of {name} looks like a secret, and the file would get a copy of it.",
                hint=f"Refer to a variable of your environment: {how}",
            )


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_servers)
def remove(names: tuple[str, ...]) -> None:
    """Remove servers from the configuration."""
    for name in names:
        remove_server(name)
        click.echo(f"Removed {name} from {config_file()}.", err=True)


@click.command("import")
@click.argument("file", type=click.Path())
@click.option("--only", multiple=True, metavar="NAME", help="Import only this server. Repeatable.")
@click.option("--force", is_flag=True, help="Replace servers of the same name.")
@click.option("--dry-run", is_flag=True, help="Show what would be imported, and change nothing.")
def import_servers(file: str, only: tuple[str, ...], force: bool, dry_run: bool) -> None:
    """Import servers from the mcpServers JSON of another program; - is standard input.

    Claude Desktop, Claude Code (.mcp.json), Cursor, Windsurf, Cline, Gemini CLI, VS Code and Zed have such a
    file. A value that looks like a secret is not copied: set a variable instead. The servers are not started.
    """
    limit = MAX_CONFIG_BYTES
    if file == "-":
        data = read_descriptor(0, limit=limit, name="standard input", error=ConfigurationError)
    else:
        data = read_bytes(file, limit=limit, error=ConfigurationError)
    name = "Standard input" if file == "-" else file
    imported, left_out = read_servers(decode_text(data, name, error=ConfigurationError), name)
    if only:
        known = [server.name for server in imported] + [server.name for server in left_out]
        if unknown := [one for one in only if one not in known]:
            raise ConfigurationError(
                f"{name} has no server {unknown[0]!r}.", hint=f"It has: {', '.join(known)}."
            )
        imported = [server for server in imported if server.name in only]
        left_out = [server for server in left_out if server.name in only]
    done: list[tuple[Imported, ServerConfig]] = []
    taken = set() if force else set(stored_names())
    for server in imported:
        if server.name in taken:
            left_out.append(LeftOut(server.name, "a server of this name exists; --force replaces it"))
        elif dry_run:
            done.append((server, msgspec.convert({**server.table, "name": server.name}, ServerConfig)))
        else:
            done.append((server, add_server(server.name, server.table, replace=force)))
    _report(name, done, left_out, dry_run=dry_run)
    if not done:
        raise ConfigurationError(f"No server of {name} was imported.")


def _report(
    file: str, done: Sequence[tuple[Imported, ServerConfig]], left_out: Sequence[LeftOut], *, dry_run: bool
) -> None:
    if done:
        verb = "Would import" if dry_run else "Imported"
        click.echo(f"{verb} from {file} into {config_file()}:", err=True)
    for server, config in done:
        click.echo(f"  {server.name}: {_shown(config)}", err=True)
        for note in server.notes:
            click.echo(f"    {plain(note)}", err=True)
    if left_out:
        click.echo("Left out:", err=True)
    for entry in left_out:
        click.echo(f"  {plain(entry.name)}: {plain(entry.reason)}", err=True)


def _shown(server: ServerConfig) -> str:
    """Return the command or the URL as a user would type it."""
    return plain(shlex.join(server.argv()) if server.url is None else server.reached_by())


def plain(text: str) -> str:
    """Replace characters that a terminal might interpret."""
    return "".join(character if character.isprintable() else "?" for character in text)
