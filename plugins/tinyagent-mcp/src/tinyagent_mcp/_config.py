"""The configuration of one MCP server."""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from tinyagent import ConfigurationError
from tinyagent.child_environment import child_environment
from tinyagent.sandbox import Launch, Mode, Policy, Sandbox, find_sandbox

from ._paths import cache_directory
from ._secrets import is_secret_name

__all__ = ["ServerConfig", "is_this_machine"]

_NAME = re.compile(r"[A-Za-z0-9](?:_?[A-Za-z0-9-]){0,31}")
_VARIABLE = re.compile(r"\$\{(\w+)\}")

_SHORTEST_SECRET = 6


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The configuration of one server.

    Attributes:
        name: The prefix of its tools' names.
        command: The command that starts it; a string is split like a shell command. Set this or `url`.
        url: Its URL, for streamable HTTP.
        env: Environment variables for it; `${NAME}` is replaced by a variable of this process.
        pass_env: Names of variables of this process to pass on.
        cwd: Its working directory. None means a private one in the cache, so that the server cannot take a
            file of a project for its own module or configuration. `.` is the present one.
        sandbox: Whether its program runs in a sandbox: if this machine has one (`auto`), always
            (`required`), or never (`off`).
        network: Whether it may use the network in the sandbox.
        writable: Folders that it may change in the sandbox, besides `cwd` and a private `/tmp`.
        roots: Directories that the server may ask for, as those of the user's work. None means the working
            directory for a command, and none for a URL.
        headers: Headers of each HTTP request; `${NAME}` as in `env`.
        client_id: The client for OAuth that you have registered at the server. None registers one.
        client_secret: Its secret, as a reference to a variable.
        redirect_port: The port on 127.0.0.1 of its redirect. None means any.
        allow_http: Whether `url` may be plain http:// to another machine.
        tools: Patterns of the tools to use, matched with the server's own names.
        exclude: Patterns of tools not to use, of those that `tools` selects.
        elicitation: Whether its tools may ask the user for values, or to open an address.
        sampling: Whether its tools may ask the model of the run, if the user agrees.
        trust_read_only: Whether to trust read-only annotations; otherwise each call needs approval.
        required: Whether a server that cannot be used is an error; otherwise a warning is logged.
        timeout: The limit of one call, in seconds.
        start_timeout: The limit of its start, in seconds.
        enabled: Whether to use it.
        remember: Whether to cache its list of tools, so that listing them does not start it.
    """

    name: str = ""
    command: str | list[str] | None = None
    url: str | None = None
    env: dict[str, str] = {}
    pass_env: list[str] = []
    cwd: str | None = None
    sandbox: Mode = "off"
    network: bool = False
    writable: list[str] = []
    roots: list[str] | None = None
    headers: dict[str, str] = {}
    client_id: str | None = None
    client_secret: str | None = None
    redirect_port: int | None = None
    allow_http: bool = False
    tools: list[str] = msgspec.field(default_factory=lambda: ["*"])
    exclude: list[str] = []
    elicitation: bool = True
    sampling: bool = True
    trust_read_only: bool = False
    required: bool = False
    timeout: float = 120.0
    start_timeout: float = 60.0
    enabled: bool = True
    remember: bool = True

    def __post_init__(self) -> None:
        if self.name and not _NAME.fullmatch(self.name):
            raise ValueError(
                f"{self.name!r} is not a valid name: use up to 32 letters, digits, '-' and single '_'"
            )
        if (self.command is None) == (self.url is None):
            raise ValueError("set either `command` or `url`")
        if self.command is not None and not any(self.argv()[:1]):
            raise ValueError("`command` is empty")
        if self.url is not None:
            self._check_url(self.url)
        if self.sandbox == "off" and (self.network or self.writable):
            raise ValueError('`network` and `writable` are for `sandbox = "auto"` or "required"')
        if self.sandbox != "off" and self.url is not None:
            raise ValueError("`sandbox` is for a server with a `command`")

    def __repr__(self) -> str:
        return f"ServerConfig(name={self.name!r}, {self.reached_by()!r})"  # the other fields may contain keys

    def reached_by(self) -> str:
        """Return the command, or the URL without its query, which may contain a key."""
        return " ".join(self.argv()) if self.url is None else self.url.partition("?")[0]

    def _check_url(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"`url` is not an http(s) URL: {url!r}")
        if "@" in parts.netloc:
            raise ValueError("`url` contains credentials; move them to `headers`")
        if parts.scheme == "http" and not self.allow_http and not is_this_machine(parts.hostname):
            raise ValueError(f"{url!r} is not encrypted; use https://, or set allow_http = true")

    def argv(self) -> list[str]:
        """Return the command as a list of arguments."""
        if isinstance(self.command, str):
            return shlex.split(self.command)
        return list(self.command or ())

    def start_directory(self) -> Path:
        """Return the working directory of the server. A private one is created."""
        if self.cwd:
            return Path(self.cwd).expanduser().absolute()
        own = cache_directory().with_name("mcp-servers") / self.name
        try:
            own.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            return Path(own.anchor)  # not writable, so no other user can put files there
        return own.absolute()

    def launch(self, command: Sequence[str], environment: Mapping[str, str], directory: Path) -> Launch:
        """Return how to start the program, in its sandbox if it has one.

        Args:
            command: The path of the program, and its arguments.
            environment: Its complete environment.
            directory: Its working directory, which it may change if `cwd` is set.

        Raises:
            ConfigurationError: A sandbox is required, but not available.
            OSError: The sandbox cannot be prepared.
        """
        # Its private directory is part of tinyagent's data, which no program in a sandbox may change.
        chosen = [directory] if self.cwd else []
        policy = Policy(
            writable=[*chosen, *(Path(folder).expanduser() for folder in self.writable)],
            network=self.network,
            environment=environment,
            visible=[*([] if self.cwd else [directory]), *_files_in_tmp(command)],
        )
        return _sandbox(self.sandbox).launch(command, policy, cwd=directory, die=False)

    def root_directories(self) -> list[Path]:
        """Return the directories for a server that asks for roots."""
        if self.roots is None:
            try:
                return [] if self.command is None else [Path.cwd()]
            except FileNotFoundError:  # it was removed
                return []
        return [Path(root).expanduser().absolute() for root in self.roots]

    def environment(self) -> dict[str, str]:
        """Return the environment of the server: a filtered copy of ours, and the configured variables."""
        passed = child_environment(os.environ)
        if "PATH" in passed:
            # A relative entry would be relative to the working directory of the server.
            entries = passed["PATH"].split(os.pathsep)
            passed["PATH"] = os.pathsep.join(entry for entry in entries if Path(entry).is_absolute())
        if self.cwd and Path.cwd().is_relative_to(self.start_directory().resolve()):
            # It starts in the project, and `python -m server` must not import files of the project.
            passed["PYTHONSAFEPATH"] = "1"
        for name in self.pass_env:
            if name in os.environ:
                passed[name] = os.environ[name]
        return passed | self.expanded(self.env, "env")

    def redacted(self, text: str) -> str:
        """Remove the secrets of the configuration from a text of the server."""
        variables = {**self.env, **{name: os.environ.get(name, "") for name in self.pass_env}}
        secrets = [variables[name] for name in variables if is_secret_name(name)]
        secrets += [*self.headers.values(), self.client_secret or "", (self.url or "").partition("?")[2]]
        for secret in secrets:
            try:
                words = self.expanded({"": secret}, "env")[""].split()
            except ConfigurationError:
                continue
            for word in words:
                if len(word) >= _SHORTEST_SECRET and word.lower() != "bearer":
                    text = text.replace(word, "…")
        return text

    def program(self, environment: Mapping[str, str]) -> list[str]:
        """Return the command with the full path of its program.

        Raises:
            ConfigurationError: The program was not found.
        """
        name, *rest = self.argv()
        found = shutil.which(name, path=environment.get("PATH"))
        if found is None:
            raise ConfigurationError(
                f"The MCP server {self.name!r} cannot be started: the program {name!r} was not found.",
                hint=f"Install {name!r}, or use its full path as the command of the server.",
            )
        return [str(Path(found).absolute()), *rest]

    def expanded(self, values: Mapping[str, str], where: str) -> dict[str, str]:
        """Replace `${NAME}` in the values.

        Raises:
            ConfigurationError: A variable is not set.
        """

        def value_of(found: re.Match[str]) -> str:
            value = os.environ.get(found[1])
            if value is None:
                raise ConfigurationError(
                    f"The MCP server {self.name!r} is not set up: {where} uses the variable {found[1]}, "
                    "which is not set.",
                    hint=f"Set it: export {found[1]}=…",
                )
            return value

        return {key: _VARIABLE.sub(value_of, value) for key, value in values.items()}

    def uses(self, tool: str) -> bool:
        """Return whether the configuration selects this tool."""
        selected = any(fnmatchcase(tool, pattern) for pattern in self.tools)
        return selected and not any(fnmatchcase(tool, pattern) for pattern in self.exclude)

    def unused_patterns(self, tools: Iterable[str]) -> list[str]:
        """Return the patterns of `tools` and `exclude` that match none of these names."""
        names = list(tools)
        patterns = [*(pattern for pattern in self.tools if pattern != "*"), *self.exclude]
        return [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]

    def fingerprint(self) -> str:
        """Return a hash of what may change the list of tools: the configuration, and the program file."""
        parts: list[object] = [msgspec.to_builtins(self)]
        if self.command is not None:
            for word in (shutil.which(self.argv()[0], path=self.environment().get("PATH")), *self.argv()[1:]):
                try:
                    found = (Path(self.cwd or "").expanduser() / (word or "")).stat()
                    parts.append([found.st_mtime_ns, found.st_size])
                except (OSError, ValueError):
                    parts.append(None)
        return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:32]


def _files_in_tmp(command: Sequence[str]) -> list[str]:
    """Return the files in `/tmp` that a command names, which the private one would hide in a sandbox."""
    return [word for word in command if word.startswith("/tmp/") and Path(word).is_file()]


@functools.lru_cache
def _sandbox(mode: Mode) -> Sandbox:
    """Return the sandbox of all servers with this mode. It is looked for once, which starts a program."""
    return find_sandbox(mode)


def is_this_machine(host: str) -> bool:
    """Return whether the host of a URL is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
