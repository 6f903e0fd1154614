"""Change one value of the user's `config.toml`."""

from __future__ import annotations

from collections.abc import Sequence

from tinyagent.agent_types import JsonValue
from tinyagent.toml_files import remove_value, set_value

from .environment import user_file
from .files import decode_user_file

__all__ = ["change_user_file"]


def change_user_file(keys: Sequence[str], value: JsonValue) -> bool:
    """Set a key of the user's `config.toml`, or remove it if `value` is None.

    Returns:
        Whether the key was there to remove; True if it was set.

    Raises:
        ConfigurationError: The file cannot be used or written, or would be invalid; it is unchanged.
    """

    path = user_file()

    def check(text: str) -> object:
        return decode_user_file(text, path)

    if value is None:
        return remove_value(path, keys, check)
    set_value(path, keys, value, check)
    return True
