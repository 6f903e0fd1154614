"""Keys of providers in the keyring of the system, by the package `keyring`.

It is used only if the user chooses it: `store = "keyring"` under `[keys]`. The package is optional.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tinyagent.errors import ConfigurationError, NotConfiguredError, error_text

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

__all__ = ["PLACE", "read", "remove", "write"]

PLACE = "the keyring"
"""How messages name the place of a key."""

_SERVICE = "tinyagent"


def read(name: str) -> str | None:
    """Return the key of a provider; None without a key.

    Raises:
        ConfigurationError: The keyring cannot be used.
    """
    with _backend() as backend:
        return backend.get_password(_SERVICE, name)


def write(name: str, key: str) -> None:
    """Store the key of a provider. The errors are those of `read`."""
    with _backend() as backend:
        backend.set_password(_SERVICE, name, key)


def remove(name: str) -> bool:
    """Remove the key of a provider. Return whether there was one. The errors are those of `read`."""
    with _backend() as backend:
        if backend.get_password(_SERVICE, name) is None:
            return False
        backend.delete_password(_SERVICE, name)
        return True


@contextmanager
def _backend() -> Iterator[KeyringBackend]:
    try:
        import keyring
        from keyring.errors import NoKeyringError
    except ImportError:
        raise NotConfiguredError(
            'keys.store is "keyring", but the package keyring is not installed.',
            hint="Install it: pip install 'tinyagent-core[keyring]'\n"
            "Or store keys in keys.toml: tinyagent config set keys.store file",
        ) from None
    try:
        yield keyring.get_keyring()
    except NoKeyringError:
        raise ConfigurationError(
            'keys.store is "keyring", but this system has no keyring that can be used.',
            hint="Start a keyring service, or store keys in keys.toml: tinyagent config set keys.store file",
        ) from None
    except Exception as error:  # a backend may raise anything, such as an error of D-Bus
        raise ConfigurationError(
            f'keys.store is "keyring", but the keyring cannot be used: {error_text(error)}',
            hint="Unlock it, or store keys in keys.toml: tinyagent config set keys.store file",
        ) from error
