"""The environment of a program that a tool starts: the variables that programs need, without secrets.

Our own environment may contain keys. So only variables of an allow-list are passed on, and of these no
variable that looks like a secret.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

__all__ = ["child_environment"]

_ALLOWED = frozenset(
    (
        *("HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TERM", "TZ", "USER"),
        *("TMP", "TEMP", "TMPDIR"),
        *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"),
        *("APPDATA", "COMSPEC", "LOCALAPPDATA", "PATHEXT", "PROGRAMDATA", "PROGRAMFILES", "SYSTEMDRIVE"),
        *("SYSTEMROOT", "USERPROFILE", "WINDIR"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
        *("CONDA_DEFAULT_ENV", "CONDA_PREFIX", "PYENV_ROOT", "UV_CACHE_DIR", "VIRTUAL_ENV"),
        *("CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "GOPATH", "GOROOT", "GOCACHE", "GOPROXY"),
        *("JAVA_HOME", "MAVEN_HOME", "GRADLE_HOME", "ANDROID_HOME"),
        *("NVM_DIR", "NVM_BIN", "PNPM_HOME", "VOLTA_HOME"),
        *("GEM_HOME", "GEM_PATH", "RBENV_ROOT", "DOTNET_ROOT", "SDKROOT", "DEVELOPER_DIR"),
    )
)  # fmt: skip
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTH")
_CREDENTIALS_IN_URL = re.compile(r"://[^/\s@]*@")
_SHORTEST_SECRET = 8


def child_environment(environment: Mapping[str, str], more: Collection[str] = ()) -> dict[str, str]:
    """Return the part of an environment that a program gets.

    A variable is passed on if programs commonly need it, if its name begins with `LC_`, or if it is in
    `more`. It is omitted if its name is like that of a secret, or if its value has the credentials of a URL
    or the value of a variable with such a name.

    Args:
        environment: Usually `os.environ`.
        more: Names of additional variables.
    """
    secrets = [
        value
        for name, value in environment.items()
        if _SECRET.search(name.upper()) and len(value) >= _SHORTEST_SECRET
    ]
    return {
        name: value
        for name, value in environment.items()
        if (name.upper() in _ALLOWED or name.startswith("LC_") or name in more)
        and not _SECRET.search(name.upper())
        and not _CREDENTIALS_IN_URL.search(value)
        and not any(secret in value for secret in secrets)
    }
