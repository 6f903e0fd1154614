"""The stored keys of providers: `keys.toml`, or the keyring of the system if the user chooses it.

A key in `keys.toml` takes precedence over one in the keyring. Environment variables take precedence over
both; `Settings.find_key` reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tinyagent.errors import AuthenticationError

from .files import decode_keys, read_keys

__all__ = ["Key", "KeyStore", "check_key"]


class Key(NamedTuple):
    """A key, and the place that it comes from: a variable, a file or the keyring."""

    value: str
    source: str

    def __repr__(self) -> str:
        return f"Key(source={self.source!r})"


class KeyStore(NamedTuple):
    """The stored keys.

    Attributes:
        path: `keys.toml`.
        uses_keyring: Whether the user has chosen the keyring.
    """

    path: Path
    uses_keyring: bool

    def find(self, name: str) -> Key | None:
        """Return the key of a provider; None if it has none.

        Raises:
            ConfigurationError: The file or the keyring cannot be used.
        """
        found = read_keys(self.path).get(name, "").strip()
        if found:
            return Key(found, str(self.path))
        if self.uses_keyring:
            from . import system_keyring

            found = (system_keyring.read(name) or "").strip()
            if found:
                return Key(found, system_keyring.PLACE)
        return None

    def store(self, name: str, key: str) -> str:
        """Store the key of a provider. Return the place that it is in.

        Raises:
            ConfigurationError: The file or the keyring cannot be used.
        """
        if not self.uses_keyring:
            from tinyagent.toml_files import set_value

            set_value(self.path, [name], key, self._check, private=True)
            return str(self.path)
        from . import system_keyring

        system_keyring.write(name, key)
        self._remove_from_file(name)  # it would take precedence over the new key
        return system_keyring.PLACE

    def remove(self, name: str) -> list[str]:
        """Remove the key of a provider. Return the places that had it. The errors are those of `store`."""
        from . import system_keyring

        places = []
        if self._remove_from_file(name):
            places.append(str(self.path))
        if self.uses_keyring and system_keyring.remove(name):
            places.append(system_keyring.PLACE)
        return places

    def _remove_from_file(self, name: str) -> bool:
        from tinyagent.toml_files import remove_value

        return name in read_keys(self.path) and remove_value(self.path, [name], self._check, private=True)

    def _check(self, text: str) -> object:
        return decode_keys(text, self.path)


def check_key(key: str, provider: str, source: str) -> None:
    """Check that a key can be sent as a header. The message does not show it.

    Raises:
        AuthenticationError: It has spaces, line breaks or characters that are not ASCII.
    """
    if not all("!" <= character <= "~" for character in key):
        raise AuthenticationError(
            f"The key of {provider!r} in {source} has spaces, line breaks or non-ASCII characters.",
            hint="Copy it again. It is not shown here, because it is secret.",
        )
