"""Load the fragments of plugins of `llm`."""

from __future__ import annotations

import llm  # pyright: ignore[reportMissingImports] - it is not in .venv

from tinyagent.errors import ConfigurationError, ToolError

from ._plugins import load_plugins

__all__ = ["load_fragment"]


def load_fragment(argument: str) -> list[bytes]:
    """Return the texts and images of `PREFIX:ARGUMENT`.

    Raises:
        ConfigurationError: There is no loader with this prefix.
        PluginError: A plugin of `llm` cannot be loaded.
        ToolError: The loader fails.
    """
    prefix, colon, rest = argument.partition(":")
    load_plugins()
    loaders = llm.get_fragment_loaders()
    if not colon or prefix not in loaders:
        known = ", ".join(sorted(loaders)) or "none"
        raise ConfigurationError(
            f"-f llm:{argument}: llm has no fragment loader {prefix!r}. It has: {known}.",
            hint="Write -f llm:PREFIX:ARGUMENT. Loaders are plugins: llm install NAME",
        )
    try:
        found = loaders[prefix](rest)
    except Exception as error:
        raise ToolError(f"-f llm:{argument}: {error}") from error
    parts = found if isinstance(found, list) else [found]
    return [
        part.content_bytes() if isinstance(part, llm.Attachment) else str(part).encode() for part in parts
    ]
