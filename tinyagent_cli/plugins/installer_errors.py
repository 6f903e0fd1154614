"""Determine why pip, uv or pipx failed, from their output.

The exit codes do not show it: pip and pipx exit with 1, uv with 1 or 2, for every error. The messages are
stable and not translated. For an unknown message, only the installer's own output is shown.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from typing import NamedTuple

from tinyagent_cli.version import DISTRIBUTION

__all__ = ["explain", "own_environment"]


class _Cause(NamedTuple):
    """A kind of failure. In its texts, `{0}` is replaced by the match of the pattern's group."""

    pattern: str
    reason: str
    hint: str


_OWN_ENVIRONMENT = "own environment"
"""Stands for the hint of `own_environment`, which depends on the requirements."""

_CAUSES = (
    _Cause(
        r"externally-managed-environment|is externally managed",
        "this Python is managed by the operating system (PEP 668)",
        _OWN_ENVIRONMENT,
    ),
    _Cause(
        r"CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerificationError|invalid peer certificate|UnknownIssuer",
        "the certificate of the package index is not trusted",
        "Behind a proxy that inspects TLS, name its certificates: export SSL_CERT_FILE=FILE PIP_CERT=FILE",
    ),
    _Cause(
        r"(?:HTTP error |status client error \(|Client Error: ?|\b)(401|403)\b[^\n]*"
        r"(?:Unauthorized|Forbidden|Credentials|Error)|(?:Unauthorized|Forbidden) for url",
        "the package index refuses access",
        "Check the credentials of the index in pip's or uv's configuration.",
    ),
    _Cause(
        r"NewConnectionError|ConnectTimeoutError|ReadTimeoutError|NameResolutionError|ProxyError|MaxRetryError"
        r"|Connection refused|dns error|error sending request|tcp connect error|Network is unreachable"
        r"|network connectivity is disabled|network was disabled",
        "the package index cannot be reached",
        "Check the network, the proxy variables and the index in pip's or uv's configuration. "
        "Without a network, install from a wheel or a folder.",
    ),
    _Cause(
        r"No space left on device|[Oo][Ss] error 28\b|Errno 28\b|Disk quota exceeded",
        "the disk is full",
        "Make room where Python packages and temporary files (TMPDIR) are stored, and try again.",
    ),
    _Cause(
        r"Permission denied|Read-only file system|[Oo][Ss] error (?:13|30)\b|Errno (?:13|30)\b|not writable",
        "the environment is not writable",
        _OWN_ENVIRONMENT,
    ),
    _Cause(
        r"requires a different Python|different python version|requires Python ?[<>=!~]"
        r"|does not satisfy Python|depends on Python",
        "it does not support this Python ({python})",
        "Install tinyagent with a Python that it supports, or a version of it that supports this one.",
    ),
    _Cause(
        r"(?:depends? on |satisfies the requirement )(" + re.escape(DISTRIBUTION) + r"(?![\w-])[^\s,)]*)",
        "it needs {0}, which is not the version that is running",
        "Upgrade tinyagent first ({upgrade}), or install a version of the plugin that fits this one.",
    ),
    _Cause(
        r"is not a supported wheel on this platform|has no wheels with a matching",
        "its wheel is for another platform or Python",
        "Install it by name, or build it from its source.",
    ),
    _Cause(
        r"File '[^']*' does not exist|Distribution not found at|looks like a filename, but the file does not",
        "there is no such file or folder",
        "Check the path; a folder must hold a pyproject.toml.",
    ),
    _Cause(
        r"is not installable|does not appear to be a Python project|not a valid wheel filename"
        r"|wheel filename .* invalid",
        "it is not a Python project or wheel",
        "Name a folder with a pyproject.toml, a wheel, or a distribution.",
    ),
    _Cause(
        r"No matching distribution found for ([^\s(]+)|[Bb]ecause (\S+) was not found in ",
        "no distribution {0} was found",
        "Check the spelling, and that the index of pip or uv has it. A folder is named with a slash: ./{0}",
    ),
    _Cause(
        r"ResolutionImpossible|conflicting dependencies|you require [^\n]*[<>=~!][^\n]* are unsatisfiable"
        r"|depends? on [^\n]*\n[^\n]*unsatisfiable",
        "what it needs conflicts with other requirements",
        "The lines above name both sides. Request versions that fit, or use another environment.",
    ),
    _Cause(
        r"subprocess-exited-with-error|metadata-generation-failed|BackendUnavailable"
        r"|Failed (?:to build|building)",
        "its build failed",
        "See the lines above. Ask its author for a wheel, or repair the build if it is your project.",
    ),
    _Cause(
        r"No module named pip\b",
        "this Python has no pip",
        "Install it: {interpreter} -m ensurepip",
    ),
)


def explain(output: str, what: Sequence[str], upgrade: str) -> tuple[str, str] | None:
    """Return the reason and the hint for a failed installer; None if its output is not recognised.

    Args:
        output: The output of the installer.
        what: The requirements that it was to install.
        upgrade: The command that upgrades tinyagent in this environment.
    """
    for cause in _CAUSES:
        found = re.search(cause.pattern, output, re.MULTILINE)
        if found is None:
            continue
        if cause.hint == _OWN_ENVIRONMENT:
            return cause.reason, own_environment(what)
        group = next(filter(None, found.groups()), "")
        names = {
            "python": ".".join(map(str, sys.version_info[:3])),
            "interpreter": shlex.quote(sys.executable),
            "upgrade": upgrade,
        }
        return cause.reason.format(group, **names), cause.hint.format(group, **names)
    return None


def own_environment(what: Sequence[str]) -> str:
    """Return how to install tinyagent and these requirements into a separate environment."""
    wanted = shlex.join(what)
    together = " ".join(f"--with {shlex.quote(item)}" for item in what)
    return (
        "Install tinyagent into its own environment, with one of these commands:\n"
        f"  pipx install {DISTRIBUTION} && pipx inject {DISTRIBUTION} {wanted}\n"
        f"  uv tool install {DISTRIBUTION} {together}\n"
        f"  python3 -m venv DIR && DIR/bin/pip install {DISTRIBUTION} {wanted}   (a virtual environment)"
    )
