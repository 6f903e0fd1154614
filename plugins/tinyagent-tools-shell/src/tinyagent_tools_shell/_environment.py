"""What a command gets to see of the environment: what programs need to run, and no secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["MARK", "clean"]

MARK = "TINYAGENT_COMMAND"
"""Names the commands that a process belongs to, so that it can be found whatever has become of it."""

_ALLOWED = frozenset(
    {
        *(
            "HOME",
            "LANG",
            "LANGUAGE",
            "LOGNAME",
            "PATH",
            "PWD",
            "SHELL",
            "TMP",
            "TEMP",
            "TMPDIR",
            "TZ",
            "USER",
        ),
        *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"),
        *("CONDA_DEFAULT_ENV", "CONDA_PREFIX", "PYENV_ROOT", "PYTHONPATH", "UV_CACHE_DIR", "VIRTUAL_ENV"),
        *(
            "CARGO_HOME",
            "RUSTUP_HOME",
            "RUSTUP_TOOLCHAIN",
            "GOPATH",
            "GOROOT",
            "GOCACHE",
            "GOFLAGS",
            "GOPROXY",
        ),
        *(
            "JAVA_HOME",
            "MAVEN_HOME",
            "GRADLE_HOME",
            "ANDROID_HOME",
            "NODE_PATH",
            "NVM_DIR",
            "NVM_BIN",
            "PNPM_HOME",
            "VOLTA_HOME",
        ),
        *("GEM_HOME", "GEM_PATH", "RBENV_ROOT", "DOTNET_ROOT", "SDKROOT", "DEVELOPER_DIR"),
        *("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "PKG_CONFIG_PATH", "MAKEFLAGS"),
        *(
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "ALL_PROXY",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "REQUESTS_CA_BUNDLE",
        ),
        *("CI", "SOURCE_DATE_EPOCH"),
    }
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTH")
_SHORTEST_SECRET = 8

_SET = {
    "TERM": "dumb",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
}
"""There is nobody at a terminal: nothing may wait for one."""


def clean(environment: Mapping[str, str], more: frozenset[str] = frozenset()) -> dict[str, str]:
    """The environment of a command.

    A variable is passed on if its name is known (or in `more`), does not sound like a secret, and its value
    holds neither a password of a URL nor the value of a variable that does sound like one.
    """
    secrets = [
        value
        for name, value in environment.items()
        if _SECRET.search(name.upper()) and len(value) >= _SHORTEST_SECRET
    ]
    kept = {
        name: value
        for name, value in environment.items()
        if (name.upper() in _ALLOWED or name.startswith("LC_") or name in more)
        and not _SECRET.search(name.upper())
        and not re.search(r"://[^/\s@]*@", value)
        and not any(secret in value for secret in secrets)
    }
    if MARK in environment:
        kept[MARK] = environment[MARK]
    return kept | _SET
