"""The project that `tinyagent plugins new` writes: a minimal plugin of its kind, with tests that pass.

The texts are in `project_files`: files that every project has, two files for each kind (the code and its
tests), workflows for GitHub, and licenses. In them `@NAME@` is the name that a user types, and `@IDENTIFIER@`
the same as a Python name.
"""

from __future__ import annotations

import json
import keyword
import re
import shutil
import subprocess
from collections.abc import Container
from datetime import date
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from tinyagent_cli.exit_codes import InputError
from tinyagent_cli.version import DISTRIBUTION, version

__all__ = ["KINDS", "LICENSES", "Kind", "Project", "check_author", "check_name", "git_user", "write"]


class Kind(NamedTuple):
    """A kind of plugin.

    Attributes:
        group: The group of its entry point, without `tinyagent.`.
        what: What the plugin of the project does, as a sentence.
        use: The commands that use it.
        packages: What its code imports besides tinyagent, as requirements.
    """

    group: str
    what: str
    use: str
    packages: tuple[str, ...] = ()


KINDS = {
    "tool": Kind(
        "tools",
        "A tool for tinyagent: it counts the words of a text.",
        'tinyagent run -t @NAME@ "How many words are in: to be or not to be?"\n'
        "tinyagent tools call @NAME@ text='to be or not to be'      # without a model",
    ),
    "provider": Kind(
        "providers",
        "A provider for tinyagent: it repeats the prompt.",
        'tinyagent run -m @NAME@/any "Hello there"',
    ),
    "command": Kind(
        "commands", "A command for tinyagent: it greets.", "tinyagent @NAME@ Ada", ("click>=8.1",)
    ),
    "input": Kind(
        "inputs",
        "Prompts and inputs for tinyagent: a template, and the names of the files in a folder.",
        "tinyagent run -p @NAME@/explain -P topic=tea\n"
        'tinyagent run -f @NAME@:. "Which of these files are tests?"',
    ),
    "hook": Kind(
        "hooks",
        "A policy for tinyagent: it refuses tool calls that name .env files.",
        "tinyagent run -t fs ...      # a plugin of the group tinyagent.hooks is loaded for every run",
    ),
    "sink": Kind(
        "hooks",
        "A log for tinyagent: it writes a line with the tokens and tool calls of each run.",
        "export TINYAGENT_@CONSTANT@_FILE=runs.jsonl      # without it, nothing is written\n"
        'tinyagent run "Hello there" && cat runs.jsonl',
    ),
    "executor": Kind(
        "executors",
        "An executor for tinyagent: it runs the items of a batch with a pause between their starts.",
        "tinyagent batch --lines prompts.txt -o answers.jsonl --executor @NAME@ --executor-option pause=2",
        ("msgspec>=0.19",),
    ),
}
"""The kinds, by the value of `--kind`."""

LICENSES: dict[str, str | None] = {
    "MIT": "MIT.txt",
    "Apache-2.0": "Apache-2.0.txt",
    "BSD-3-Clause": "BSD-3-Clause.txt",
    "none": None,
}
"""The values of `--license`: SPDX identifiers with their files, and `none`."""

_TAKEN = {
    *("bool", "int", "len", "list", "str"),
    *("call", "click", "hookimpl", "pytest", "reply", "text", "tinyagent", "tool"),
}
"""Names that the templates use themselves."""


class Project(NamedTuple):
    """The answers from which a project is made.

    Attributes:
        name: The name that users type, as `check_name` returns it.
        kind: One of `KINDS`.
        license: One of `LICENSES`.
        author: The holder of the copyright; None for the authors of the plugin.
    """

    name: str
    kind: str
    license: str = "MIT"
    author: str | None = None

    def files(self) -> dict[str, str]:
        """Return the texts of the files, by their paths in the project."""
        identifier = self.name.replace("-", "_")
        package = f"src/tinyagent_{identifier}"
        templates = {
            "pyproject.toml": "pyproject.toml.txt",
            "README.md": "README.md.txt",
            "CHANGELOG.md": "CHANGELOG.md.txt",
            ".gitignore": "gitignore.txt",
            ".github/workflows/test.yml": "workflows/test.yml.txt",
            ".github/workflows/release.yml": "workflows/release.yml.txt",
            f"{package}/__init__.py": f"kinds/{self.kind}.py.txt",
            f"tests/test_{identifier}.py": f"kinds/{self.kind}_tests.py.txt",
        }
        license_file = LICENSES[self.license]
        if license_file is not None:
            templates["LICENSE"] = f"licenses/{license_file}"
        marks = self._marks(identifier)
        texts = {path: _filled(template, marks) for path, template in templates.items()}
        return {**texts, f"{package}/py.typed": ""}

    def _marks(self, identifier: str) -> dict[str, str]:
        """Return the values of the marks. A value may contain the marks that follow it."""
        kind = KINDS[self.kind]
        holder = self.author or f"the authors of tinyagent-{self.name}"
        needed = [f"{DISTRIBUTION}>={'.'.join(version().split('.')[:2])}", *kind.packages]
        has_license = LICENSES[self.license] is not None
        return {
            "@WHAT@": kind.what,
            "@USE@": kind.use,
            "@GROUP@": kind.group,
            "@DEPENDENCIES@": ", ".join(map(_toml, needed)),
            "@LICENSE@": f'license = "{self.license}"\nlicense-files = ["LICENSE"]\n' if has_license else "",
            "@RIGHTS@": f"License: {self.license}." if has_license else "All rights are reserved.",
            "@AUTHOR@": _toml(holder),
            "@YEAR@": str(date.today().year),
            "@CONSTANT@": identifier.upper(),
            "@IDENTIFIER@": identifier,
            "@NAME@": self.name,
            "@HOLDER@": holder,
        }


def _filled(template: str, marks: dict[str, str]) -> str:
    text = (resources.files("tinyagent_cli.plugins") / "project_files" / template).read_text(encoding="utf-8")
    for mark, value in marks.items():
        text = text.replace(mark, value)
    return text


def _toml(text: str) -> str:
    """Return a text without control characters as a string of TOML."""
    return json.dumps(text, ensure_ascii=False)


def check_name(typed: str, kind: str, commands: Container[str]) -> str:
    """Return the name of the plugin, without a `tinyagent-` before it.

    Args:
        typed: The name that the user has typed.
        kind: One of `KINDS`.
        commands: The built-in commands, whose names are taken.

    Raises:
        InputError: It cannot be the name of a plugin of this kind.
    """
    name = typed.removeprefix("tinyagent-")
    why = None
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > 40:
        why = "a name has lower-case letters, digits and single '-', and begins with a letter"
    elif keyword.iskeyword(name.replace("-", "_")) or name in _TAKEN:
        why = "that name is reserved"
    elif kind == "provider":
        from . import builtin as builtin_plugins

        if name in builtin_plugins.NAMES:
            why = "a provider of that name is built in"
    elif kind == "command" and name in commands:
        why = "that command is built in"
    if why is not None:
        raise InputError(f"{typed!r} cannot be the name of the plugin: {why}.", hint="For example: weather")
    return name


def check_author(typed: str) -> str:
    """Return the name of an author, without blanks around it.

    Raises:
        InputError: It is empty, too long, or has control characters.
    """
    name = typed.strip()
    if not name or not name.isprintable() or len(name) > 200:
        raise InputError(f"{typed!r} cannot be the author: it is the name of a person or an organisation.")
    return name


def git_user() -> str | None:
    """Return the `user.name` of git; None without git or such a setting."""
    git = shutil.which("git")
    if git is None:
        return None
    try:
        done = subprocess.run(
            [git, "config", "user.name"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
        return check_author(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired, InputError):
        return None


def write(folder: Path, project: Project) -> list[str]:
    """Write the project, and return the paths of its files.

    Raises:
        InputError: The folder is not empty, or cannot be written.
    """
    texts = project.files()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is not an empty folder.", hint="Choose another one with --folder.")
        for path, text in texts.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
    except OSError as error:
        raise InputError(f"Cannot write to {folder}: {error.strerror}.") from None
    return list(texts)
