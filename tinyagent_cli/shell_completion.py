"""Shell completion, without importing plugins and without network access.

Model ids come from the configuration, the defaults and the last `models list`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .plugins.discovery import EXECUTORS, find, installed

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

    from .config.settings import Settings

__all__ = [
    "COMPLETION_VARIABLE",
    "complete_aliases",
    "complete_allowed",
    "complete_approvals",
    "complete_at_files",
    "complete_executors",
    "complete_files",
    "complete_models",
    "complete_plugins",
    "complete_providers",
    "complete_records",
    "complete_sessions",
    "complete_setting_values",
    "complete_settings",
    "complete_stored_keys",
    "complete_templates",
    "complete_tools",
    "complete_variables",
]

COMPLETION_VARIABLE = "_TINYAGENT_COMPLETE"
"""The environment variable with which a shell's completion script requests completions."""


_MOST_SESSIONS = 100
"""The most sessions that are offered."""


def complete_tools(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete tool plugins, their tools after a dot, and files of this folder; the shell completes paths."""
    if "/" in incomplete or incomplete.startswith((".", "~")):
        return [_item(incomplete, type="file")]
    installed_tools = [
        _item(entry.name, help=entry.origin) for entry in find("tools") if entry.name.startswith(incomplete)
    ]
    plugin, dot, tool = incomplete.partition(".")
    if dot:
        from .plugins.declarations import declared_tools

        single = [name for name in declared_tools(plugin) if name.startswith(tool)]
        installed_tools += [_item(f"{plugin}.{name}") for name in single]
    files = _paths("", incomplete) if incomplete else []
    return installed_tools + [item for item in files if item.value.endswith(".py")]


def complete_allowed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of single tools: of those that -t or the configuration chooses, or else of all."""
    from .plugins.declarations import declared_tools

    requests = ctx.params.get("tools")
    if not requests:
        found = _settings()
        requests = (found.run.tools if found else None) or [entry.name for entry in find("tools")]
    tools = {name: request for request in reversed(requests) for name in declared_tools(request)}
    names = [name for name in sorted(tools) if name.startswith(incomplete)]
    return [_item(name, help=f"from {tools[name]}") for name in names]


def complete_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete paths, for an argument that may also be something else."""
    return [_item(incomplete, type="file")]


def complete_executors(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of executors."""
    names = [*EXECUTORS, *(plugin.name for plugin in find("executors"))]
    return [name for name in names if name.startswith(incomplete)]


def complete_at_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the path in `@FILE`, for a prompt that begins with it."""
    return _paths("@", incomplete[1:]) if incomplete.startswith("@") else []


def _paths(prefix: str, start: str) -> list[CompletionItem]:
    """Return the paths that begin with `start`, after a prefix that the shell does not know."""
    import os

    folder, slash, name = start.rpartition("/")
    try:
        with os.scandir((folder or slash) or ".") as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError:
        return []
    return [
        _item(f"{prefix}{folder}{slash}{entry}{'/' if is_folder else ''}")
        for entry, is_folder in found
        if entry.startswith(name) and entry.startswith(".") <= name.startswith(".")
    ]


def complete_plugins(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete distributions with plugins, and the names of their plugins."""
    everything = installed()
    names = [*(entry.distribution for entry in everything), *(entry.name for entry in everything)]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def complete_providers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of providers."""
    return [name for name in _providers(_settings()) if name.startswith(incomplete)]


def complete_stored_keys(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names in `keys.toml`. The keyring is not asked, because it may show a dialog."""
    from .config.environment import keys_file
    from .config.files import read_keys

    try:
        names = sorted(read_keys(keys_file()))
    except Exception:  # noqa: BLE001 - a completion cannot show errors
        return []
    return [name for name in names if name.startswith(incomplete)]


def complete_settings(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the keys of settings, with the names of the configured providers."""
    from .config.reference import NAME, all_settings

    found = _settings()
    names = {
        "providers": _providers(found),
        "tools": [entry.name for entry in find("tools")],
    }
    items = []
    for setting in all_settings():
        table, placeholder, rest = setting.key.partition(f".{NAME}.")
        keys = [f"{table}.{name}.{rest}" for name in names.get(table, ())] if placeholder else [setting.key]
        items += [_item(key, help=setting.description) for key in keys if key.startswith(incomplete)]
    return items


def complete_setting_values(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the value of the setting that the argument before names."""
    from .config.reference import NAME, all_settings

    key = str(ctx.params.get("key"))
    if key == "run.model" or key.startswith("aliases."):
        return [_item(name) for name in complete_models(ctx, param, incomplete)]
    if key in ("run.tools", "run.allow", "run.deny"):
        before, comma, last = incomplete.rpartition(",")
        names = (complete_tools if key == "run.tools" else complete_allowed)(ctx, param, last)
        return [_item(before + comma + item.value, item.help, item.type) for item in names]
    parts = key.split(".")
    for setting in all_settings():
        pattern = setting.key.split(".")
        if len(parts) == len(pattern) and all(a in (b, NAME) for a, b in zip(pattern, parts, strict=True)):
            return [_item(value) for value in setting.values if value.startswith(incomplete)]
    return []


def complete_approvals(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the ids of stored approvals, with their tools and arguments."""
    from .config.environment import approvals_file
    from .run.approval_store import SHOWN_ID, ApprovalStore

    try:
        found = sorted(ApprovalStore(approvals_file()), key=lambda a: a.created)
    except Exception:  # noqa: BLE001 - a completion cannot show errors
        return []
    return [
        _item(approval.id[:SHOWN_ID], help=f"{approval.tool} {approval.arguments}")
        for approval in found
        if approval.id.startswith(incomplete)
    ]


def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete providers with a slash, then known model ids; after `replay:` a file."""
    if incomplete.startswith("replay:"):
        return [item.value for item in _paths("replay:", incomplete.removeprefix("replay:"))]
    found = _settings()
    provider, slash, _ = incomplete.partition("/")
    if slash:
        return [name for name in _known_models(found, provider) if name.startswith(incomplete)]
    names = [{"demo": "demo", "replay": "replay:"}.get(name, f"{name}/") for name in _providers(found)]
    aliases = [] if found is None else sorted(found.aliases)
    return [name for name in [*aliases, *names] if name.startswith(incomplete)]


def complete_aliases(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of aliases."""
    found = _settings()
    return [name for name in sorted(found.aliases if found else ()) if name.startswith(incomplete)]


def complete_sessions(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of sessions, then the ids of the others; the last used ones come first."""
    from .config.environment import sessions_directory
    from .sessions.files import NAMED, SHOWN_ID, SUFFIX
    from .terminal.amounts import time_text

    found: list[tuple[bool, float, str]] = []
    try:
        for folder in sessions_directory().iterdir():
            named = folder.name == NAMED
            for file in folder.glob(f"*{SUFFIX}"):
                status = file.lstat()
                name = file.name.removesuffix(SUFFIX)
                if status.st_size:
                    found.append((not named, -status.st_mtime, name if named else name[:SHOWN_ID]))
    except OSError:
        pass  # a completion cannot show errors
    return [
        _item(name, help=time_text(round(-used * 1000))[:16])
        for _, used, name in sorted(found)
        if name.startswith(incomplete)
    ][:_MOST_SESSIONS]


def complete_templates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of templates, with their files. They are not read, and no plugin is loaded."""
    from .config.known_templates import read_known
    from .config.templates import all_templates

    try:
        found = {place.name: str(place.path) for place in reversed(all_templates())}
        found |= {template.name: template.description for template in read_known()}
    except Exception:  # noqa: BLE001 - a completion cannot show errors
        return []
    return [_item(name, help=found[name]) for name in sorted(found) if name.startswith(incomplete)]


def complete_variables(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the variables of the template of `-p`, with their defaults."""
    from .config.known_templates import read_known
    from .config.templates import PROMPT, STDIN, find_template, read_template

    name = str(ctx.params.get("template"))
    known = next((template for template in read_known() if template.name == name), None)
    if known is not None:
        return [
            _item(f"{variable}=", help=about)
            for variable, about in known.variables.items()
            if variable.startswith(incomplete)
        ]
    try:
        content = read_template(find_template(name)).content
    except Exception:  # noqa: BLE001 - a completion cannot show errors
        return []
    return [
        _item(f"{name}=", help=str(content.defaults.get(name, "")))
        for name in content.variables
        if name not in (PROMPT, STDIN) and name.startswith(incomplete)
    ]


def complete_records(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names and ids of sessions, and files; the shell completes other paths."""
    found = complete_sessions(ctx, param, incomplete)
    return [*found, *_paths("", incomplete)] if found else complete_files(ctx, param, incomplete)


def _item(value: str, help: str | None = None, type: str = "plain") -> CompletionItem:
    from click.shell_completion import CompletionItem

    return CompletionItem(value, type, help)


def _settings() -> Settings | None:
    from .config.settings import load_settings

    try:
        return load_settings()
    except Exception:  # noqa: BLE001 - a completion cannot show errors
        return None


def _providers(found: Settings | None) -> list[str]:
    from .plugins.builtin import provider_plugins

    return sorted({plugin.name for plugin in provider_plugins(() if found is None else found.providers)})


def _known_models(found: Settings | None, provider: str) -> list[str]:
    from tinyagent._stream.servers import SERVERS

    from .config import catalogue

    listing = catalogue.read(provider)
    # An id with blanks would be several words for the shell.
    ids = {info.id for info in listing.models if not set(info.id) & set(" \t\r\n")} if listing else set()
    if provider in SERVERS and SERVERS[provider].default_model:
        ids.add(str(SERVERS[provider].default_model))
    names = {f"{provider}/{model_id}" for model_id in ids}
    if found is not None and found.run.model:
        names.add(found.run.model)
    return sorted(names)
