"""Check an installation: plugins, versions, the configuration, names, keys and endpoints.

The checks do not raise: each result is a `Finding`, with a hint. Plugins are loaded in separate processes.
Only endpoints that the user has set up are asked, with a short time-out.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from tinyagent._stream.servers import SERVERS
from tinyagent.agent_types import Provider
from tinyagent.errors import AuthenticationError, NotConfiguredError, ProviderError, TinyAgentError
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config import model_choice
from tinyagent_cli.config.environment import config_directory, user_file
from tinyagent_cli.config.settings import Settings, load_settings
from tinyagent_cli.terminal.amounts import counted
from tinyagent_cli.version import DISTRIBUTION

from .builtin import key_state, key_variable, provider_plugins
from .check import check_all
from .compatibility import version_misfit
from .discovery import Plugin, find, normalised
from .model_lists import reason
from .model_names import complete_choice
from .registry import PluginLoader
from .selection import BUILT_IN_NAMES, Preferences

__all__ = ["Finding", "examine"]


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        check: `installation`, `configuration`, `sandbox`, `plugin`, `names`, `versions`, `keys` or
            `endpoint`.
        subject: The thing that was checked.
        code: The exit code of a run that has this problem; 0 for a harmless problem, or without one.
        message: The state of the subject.
        hint: How to solve the problem; with code 0 it is advice.
    """

    check: str
    subject: str
    code: int
    message: str
    hint: str | None = None


def examine(app: AppContext, *, seconds: float, offline: bool) -> Iterator[Finding]:
    """Run all checks. Secrets that a finding quotes from the configuration or a plugin are removed."""
    from tinyagent._net.errors import redact

    for finding in _examine(app, seconds, offline):
        yield finding._replace(
            subject=redact(finding.subject),
            message=redact(finding.message),
            hint=None if finding.hint is None else redact(finding.hint),
        )


def _examine(app: AppContext, seconds: float, offline: bool) -> Iterator[Finding]:
    yield from _installation()
    with ThreadPoolExecutor(max_workers=1) as pool:
        versions = pool.submit(_check_versions)
        yield from _plugins()
        yield from _versions(app, versions)
    try:
        found = load_settings()
    except TinyAgentError as error:
        yield Finding("configuration", "files", 3, str(error), error.hint)
        return
    yield from _configuration(found)
    yield _sandbox(found)
    yield from _names(found)
    yield from _keys_and_endpoints(found, None if offline else seconds)


# ---- installation ---------------------------------------------------------------------------------------


def _installation() -> Iterator[Finding]:
    from tinyagent_cli.version import version

    from .installer import Installer
    from .namesake import fault

    subject = f"tinyagent {version()}"
    try:
        kind = Installer.of_this_environment().kind
    except TinyAgentError as error:
        yield Finding("installation", subject, 1, str(error), error.hint)
    else:
        python = ".".join(map(str, sys.version_info[:3]))
        yield Finding("installation", subject, 0, f"Python {python}, {kind}")
    found = fault()
    if found is not None:
        yield Finding("installation", "package tinyagent", 3, *found)


def _plugins() -> Iterator[Finding]:
    for entry, loaded in check_all(find()):
        message, hint = loaded.message or "loads", loaded.hint
        if loaded.status == "ok" and (misfit := version_misfit(entry)) is not None:
            yield Finding("plugin", _subject(entry), 1, f"{misfit.why}; it loads, but may fail", misfit.hint)
            continue
        if loaded.code and entry.group == "hooks":
            off = f'Or disable it: [plugins] disable = ["{entry.name}"] in config.toml'
            hint = f"{hint}\n{off}" if hint else off
        yield Finding("plugin", _subject(entry), loaded.code, message, hint)


def _versions(app: AppContext, answer: Future[tuple[bool, str]]) -> Iterator[Finding]:
    """Report version conflicts that pip or uv finds; those of unrelated packages only with -v."""
    try:
        agrees, report = answer.result()
    except (TinyAgentError, OSError, subprocess.TimeoutExpired) as error:
        yield Finding("versions", "dependencies", 0, f"not checked: {error}")
        return
    from .namesake import installed_from

    ours = {DISTRIBUTION, *(normalised(entry.distribution) for entry in find())}
    misfits = {normalised(entry.distribution) for entry in find() if version_misfit(entry) is not None}
    conflicts = [" ".join(line.split()) for line in report.splitlines() if line.strip() and not agrees]
    has_conflict = False
    for conflict in conflicts:
        name = normalised(conflict.partition(" ")[0])
        if name in misfits and DISTRIBUTION in conflict:
            has_conflict = True  # reported with the plugin
        elif name in ours:
            has_conflict = True
            hint = (
                f"Upgrade it, or its dependency: tinyagent plugins install --upgrade {installed_from(name)}"
            )
            yield Finding("versions", name, 1, conflict, hint)
        else:
            app.detail(conflict)
    if not has_conflict:
        yield Finding("versions", "dependencies", 0, "no conflict")


def _check_versions() -> tuple[bool, str]:
    from .installer import Installer

    done = subprocess.run(
        Installer.of_this_environment().check_command(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return not done.returncode, done.stdout + done.stderr


# ---- configuration ----------------------------------------------------------------------------------------


def _configuration(found: Settings) -> Iterator[Finding]:
    file = user_file()
    entries = find()
    known = {entry.name for entry in entries if entry.group == "tools"}
    for name in found.run.tools or ():
        if name not in known and name.rpartition(".")[0] not in known and not name.endswith(".py"):
            hint = (
                f"Install it, or remove it from [run] tools. Installed: {', '.join(sorted(known)) or 'none'}"
            )
            yield Finding("configuration", f"tool {name}", 3, "is not installed", hint)
    known = {name for entry in entries for name in (entry.name, entry.distribution)}
    for name in sorted(found.disabled_plugins - known):
        hint = f"Remove it from [plugins] disable in {file}"
        yield Finding("configuration", f"plugin {name}", 0, "is disabled, but not installed", hint)
    distributions = {normalised(entry.distribution) for entry in entries} | BUILT_IN_NAMES
    for name, preferred in found.preferred_plugins.items():
        if normalised(preferred) not in distributions:
            hint = f"Correct or remove [plugins] prefer.{name} in {file}"
            yield Finding("configuration", f"prefer {name}", 0, f"{preferred} is not installed", hint)
    yield Finding("configuration", "files", 0, f"in {config_directory()}")


def _sandbox(found: Settings) -> Finding:
    """Try the sandbox of tools that run programs."""
    from pathlib import Path

    from tinyagent.sandbox import Policy, find_sandbox

    table, subject = found.sandbox, "programs of tools"
    if table.mode == "off":
        source = found.sandbox_sources.get("mode", str(user_file()))
        return Finding("sandbox", subject, 0, f"The sandbox is turned off by {source}.")
    try:
        box = find_sandbox(table.mode)
    except TinyAgentError as error:
        return Finding("sandbox", subject, 3, str(error), error.hint)
    policy = Policy(writable=[Path.cwd(), *table.writable], network=table.network)
    text = box.describe(policy)
    if box.mechanism == "landlock":
        text += f" bubblewrap holds more, but: {box.problem}."
    hint = None
    if box.problem:
        hint = "docs/sandbox.md compares the mechanisms."
        if "not installed" in box.problem:
            hint = f"Install bubblewrap, for example: apt install bubblewrap. {hint}"
    return Finding("sandbox", subject, 0, text, hint)


def _names(found: Settings) -> Iterator[Finding]:
    plugins = [plugin for plugin in find() if plugin.group != "providers"]
    for conflict in Preferences(found.preferred_plugins).conflicts(
        [*plugins, *provider_plugins(found.providers)]
    ):
        subject = f"{conflict.group.removesuffix('s')} {conflict.name}"
        yield Finding("names", subject, 3, str(conflict.error), conflict.error.hint)


def _keys_and_endpoints(found: Settings, seconds: float | None) -> Iterator[Finding]:
    """Check the providers that the user has set up: those in the configuration, and that of the model."""
    names = dict.fromkeys(found.providers)
    loader = PluginLoader.from_settings(found)
    try:
        choice = model_choice.choose(None, found)
        if choice.provider not in loader.provider_names():
            choice = complete_choice(choice, found, loader.provider_names(), lambda note: None)
    except TinyAgentError as error:
        code = 0 if isinstance(error, NotConfiguredError) else 3
        yield Finding("configuration", "model", code, str(error), error.hint)
    else:
        names[choice.provider] = None
        if choice.provider not in ("replay", "demo"):
            model = "/".join(filter(None, (choice.provider, choice.model_id)))
            yield Finding("configuration", "model", 0, f"{model}, from {choice.source}")
    for name in names:
        if name in ("replay", "demo"):
            continue
        try:
            provider = loader.provider(name)
            is_proxy = name == "proxy" and name not in found.providers  # it reads its token by itself
            variable = key_variable(name, None) if is_proxy else provider.api_key_env
            key = found.find_key(name, variable)
        except TinyAgentError as error:
            yield Finding("keys", name, 3, str(error), error.hint)
            continue
        if key is None and variable is not None:
            hint = f"Store it: tinyagent keys set {name}   Or set it: export {variable}=…"
            yield Finding("keys", name, 3, f"{variable} is not set", hint)
            continue
        yield Finding("keys", name, 0, key_state(key, variable))
        if seconds is not None and (name in found.providers or name in SERVERS or is_proxy):
            yield _endpoint(provider, seconds)


def _endpoint(provider: Provider, seconds: float) -> Finding:
    """Ask a provider for its models. A server that refuses anything but the key works."""
    assert provider.list_models is not None
    ask = provider.list_models

    async def answer() -> int:
        async with asyncio.timeout(seconds):
            return len(await ask())

    try:
        count = asyncio.run(answer())
    except TimeoutError:
        hint = "Check that it is running, and the port in its base_url. --timeout allows more time."
        return Finding("endpoint", provider.name, 1, f"no answer within {seconds:g} s", hint)
    except AuthenticationError as error:
        return Finding(
            "endpoint", provider.name, 3, reason(error, provider.name), error.hint or "Set a valid key."
        )
    except ProviderError as error:
        if error.status is not None and error.status < 500:
            return Finding("endpoint", provider.name, 0, "answers, but does not list its models")
        hint = "Check that it is running, and its base_url: [providers.NAME] in config.toml"
        return Finding("endpoint", provider.name, 1, reason(error, provider.name), error.hint or hint)
    except TinyAgentError as error:
        return Finding("endpoint", provider.name, 3, reason(error, provider.name), error.hint)
    except Exception as error:  # noqa: BLE001 - a provider may do anything
        return Finding("endpoint", provider.name, 1, f"{type(error).__name__}: {error}")
    return Finding("endpoint", provider.name, 0, f"answers, with {counted(count, 'model')}")


def _subject(entry: Plugin) -> str:
    return f"{entry.group}: {entry.name} ({entry.origin})"
