"""A hook of hatchling: the description on PyPI is README.md with links that work there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?!https?:|#)(?P<path>[^)\s]+)\)")


def description(readme: str, repository: str, version: str) -> str:
    """Return the README for PyPI.

    Args:
        readme: The text of README.md.
        repository: The address of the repository, or "" as long as it has none: then links become text,
            and pictures are left out.
        version: The version, whose tag the links name.
    """

    def replaced(link: re.Match[str]) -> str:
        picture, text, path = link.group("picture", "text", "path")
        if repository:
            kind = "raw" if picture else "blob"
            return f"{picture}[{text}]({repository.rstrip('/')}/{kind}/v{version}/{path})"
        return "" if picture else text

    return LINK.sub(replaced, readme)


class ReadmeHook(MetadataHookInterface):
    """Sets `readme`, which is dynamic in pyproject.toml."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description."""
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository", "")
        text = description(readme, repository, metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
