"""The instructions of a project, `AGENTS.md`. Only `--context` and its setting import this."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tinyagent.errors import ConfigurationError
from tinyagent.text_files import read_config
from tinyagent_cli.app_context import AppContext

__all__ = ["CONTEXT_FILE", "ProjectContext", "context_files", "read_context"]

CONTEXT_FILE = "AGENTS.md"

MAX_CONTEXT = 128 * 1024
"""The size limit of a file in bytes. Each request contains its text."""


class ProjectContext(NamedTuple):
    """The files with instructions, and their texts for the system prompt."""

    files: list[str]
    text: str

    def added_to(self, system: str) -> str:
        """Return a system prompt with the instructions. Those of an earlier run are replaced."""
        before = re.sub(r"\n*<instructions file=.*</instructions>\s*\Z", "", f"\n{system}", flags=re.DOTALL)
        return "\n\n".join(filter(None, (before.strip(), self.text)))


def context_files() -> list[Path]:
    """Return the `AGENTS.md` of the working directory and its parents, the outermost first.

    The search ends at the root of the repository, which has `.git`. Outside of a repository, only the working
    directory is searched.
    """
    return [path for folder in reversed(_folders()) if (path := folder / CONTEXT_FILE).exists()]


def _folders() -> list[Path]:
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return []
    folders: list[Path] = []
    for folder in (here, *here.parents):
        folders.append(folder)
        if (folder / ".git").exists():
            return folders
    return [here]


def read_context(app: AppContext, *, asked: bool) -> ProjectContext:
    """Read the instructions, and name each file on standard error.

    Args:
        app: Shows the names.
        asked: Whether a missing file is reported, because the option names it.

    Raises:
        ConfigurationError: A file is a link to somewhere else, others can write it, or it is no text.
    """
    root = _folders()[-1:]
    files = context_files()
    texts = list(_texts(files, root[0])) if root else []
    for path in files:
        app.note(f"Using the instructions of {path}")
    if asked and not files:
        app.note(f"There is no {CONTEXT_FILE} in this folder, or above it in its repository.")
    return ProjectContext([str(path) for path in files], "\n\n".join(filter(None, texts)))


def _texts(files: list[Path], root: Path) -> Iterator[str]:
    for path in files:
        target = path.resolve()
        # A repository could contain a link to any file of the user, whose text would be sent to the model.
        if target != path and not (target.suffix == ".md" and target.is_relative_to(root.resolve())):
            raise ConfigurationError(
                f"{path} is a link to {target}, which is not a Markdown file of the project, so it is not "
                "used.",
                hint="Without the instructions: --no-context",
            )
        try:
            text = read_config(path, limit=MAX_CONTEXT)
        except ConfigurationError as error:
            hint = "\n".join(filter(None, (error.hint, "Without the instructions: --no-context")))
            raise ConfigurationError(str(error), hint=hint) from None
        if text is not None and text.strip():
            name = path.relative_to(root)
            yield f"<instructions file={str(name)!r}>\n{text.strip()}\n</instructions>"
