"""Find secrets in the configuration of a server, so that no file gets a copy of them."""

from __future__ import annotations

import re

__all__ = ["has_secret", "is_secret_name", "secret_argument"]

_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTH", re.IGNORECASE)
_PREFIXES = re.compile(
    r"\b(?:sk|pk|rk|ghp|gho|ghs|ghu|github_pat|glpat|xox[abprs]|hf|npm|pypi|lin_api|ntn|secret|tvly|ya29|shpat)"
    r"[-_.][\w-]{6,}|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{30,}|\beyJ[\w-]{10,}\.[\w-]{10,}"
)
_CREDENTIALS = re.compile(r"://[^/\s@:]*:[^/\s@]+@|\b(?:Bearer|Basic|Token)\s+\S{6,}", re.IGNORECASE)
_SECRET_QUERY = re.compile(r"[?&]([^=&#]+)=[^&#]{6,}")
_VARIABLE = re.compile(r"\$\{[^}]*\}")
_PLAIN = re.compile(r"|true|false|yes|no|on|off|none|\d{1,5}", re.IGNORECASE)
"""Values that are no secret, whatever the name of the variable is."""


def is_secret_name(name: str) -> bool:
    """Return whether a variable or header of this name probably has a secret."""
    return _NAMES.search(name) is not None


def has_secret(name: str, value: str) -> bool:
    """Return whether a variable or header has a secret: by its name, or by the form of its value.

    References to variables are not secrets.
    """
    rest = _VARIABLE.sub("", value).strip()
    if _PLAIN.fullmatch(rest) or rest.lower() in ("bearer", "basic", "token"):
        return False
    return is_secret_name(name) or name.lower() == "cookie" or _looks_secret(rest)


def secret_argument(words: list[str]) -> str | None:
    """Return the first part of a command or URL that names a secret, without the secret; None without one."""
    for number, (before, word) in enumerate(zip(["", *words], words, strict=False)):
        option, equals, value = word.partition("=")
        if word.startswith("-") and equals and has_secret(option, value):
            return option
        is_value = before.startswith("--") and "=" not in before and not word.startswith("-")
        if is_value and has_secret(before, word):
            return before
        if _looks_secret(word):
            return before if before.startswith("-") else f"argument {number}" if number else "in the address"
        for found in _SECRET_QUERY.finditer(word if "://" in word else ""):
            if is_secret_name(found[1]):
                return f"?{found[1]}="
    return None


def _looks_secret(value: str) -> bool:
    return _PREFIXES.search(value) is not None or _CREDENTIALS.search(value) is not None
