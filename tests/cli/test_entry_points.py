"""Installed plugins are found without any import."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tinyagent_cli.config.files import names_a_file
from tinyagent_cli.plugins import discovery as entry_points
from tinyagent_cli.plugins.discovery import Plugin, find, scan


def install(site: Path, name: str, text: str, version: str = "1.0", kind: str = "dist-info") -> Path:
    """Write the metadata of a distribution."""
    folder = site / (f"{name}-{version}.dist-info" if kind == "dist-info" else f"{name}.egg-info")
    folder.mkdir(parents=True)
    file = "METADATA" if kind == "dist-info" else "PKG-INFO"
    (folder / file).write_text(
        f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n\nHi\n"
    )
    (folder / "entry_points.txt").write_text(text)
    return site


def test_it_finds_what_the_standard_library_finds() -> None:
    """The scan of this environment gives the same plugins as `importlib.metadata`."""
    expected = sorted(
        Plugin(
            point.group.removeprefix("tinyagent."), point.name, point.value,
            distribution.metadata["Name"], distribution.version,
            next(str(r.specifier) for r in map(Requirement, distribution.requires or ())
                 if canonicalize_name(r.name) == "tinyagent-core"),
        )
        for distribution in metadata.distributions()
        for point in distribution.entry_points
        if point.group.startswith("tinyagent.")
    )  # fmt: skip
    assert expected == list(scan(tuple(path for path in sys.path if path)))


@pytest.mark.parametrize(
    ("lines", "needs"),
    [
        ("Requires-Dist: tinyagent-core>=0.1\n", ">=0.1"),
        ("Requires-Dist: tinyagent_core[uvloop] (>= 0.1, <2)\nRequires-Dist: click>=8\n", ">=0.1,<2"),
        ("Requires-Dist: Tinyagent.Core~=1.0; python_version >= '3.11'\n", "~=1.0"),
        ("Requires-Dist: tinyagent-core\n", ""),
        ("Requires-Dist: tinyagent-core-more>=3\nRequires-Dist: click\n", ""),
        ("Requires-Dist: tinyagent-core>=0.1\nRequires-Dist: tinyagent-core>=9 ; extra == 'new'\n", ">=0.1"),
        ("\nRequires-Dist: tinyagent-core>=9\n", ""),
    ],
)
def test_the_versions_of_tinyagent_that_a_plugin_requires(tmp_path: Path, lines: str, needs: str) -> None:
    """They are read from the headers of the metadata; extras and other distributions do not count."""
    site = install(tmp_path, "one", "[tinyagent.tools]\na = mod_a\n", "1.0")
    [metadata_file] = site.glob("*/METADATA")
    metadata_file.write_text(f"Metadata-Version: 2.1\nName: one\nVersion: 1.0\n{lines}")
    [found] = scan((str(tmp_path), str(site)))
    assert needs == found.needs


def test_groups_comments_spaces_and_extras(tmp_path: Path) -> None:
    """The scan reads the format of pip and setuptools, and ignores other groups."""
    text = """
[console_scripts]
x = y:z
[tinyagent.tools]
# a comment
a=mod_a
b = mod_b : thing.attr [extra]
; another
[tinyagent.unheard_of]
c = mod_c
[ tinyagent.hooks ]
d = mod_d
"""
    install(tmp_path, "many_things", text, "2.0")
    assert (
        Plugin("hooks", "d", "mod_d", "many-things", "2.0"),
        Plugin("tools", "a", "mod_a", "many-things", "2.0"),
        Plugin("tools", "b", "mod_b : thing.attr", "many-things", "2.0"),
    ) == scan((str(tmp_path),))


def test_egg_info_counts(tmp_path: Path) -> None:
    """A development install of setuptools is found."""
    install(tmp_path, "old", "[tinyagent.tools]\nold = old\n", kind="egg-info")
    assert ["old"] == [entry.name for entry in scan((str(tmp_path),))]


def test_the_first_of_a_name_hides_the_others(tmp_path: Path) -> None:
    """The first distribution of a name on the path hides later ones, even without entry points."""
    first = install(tmp_path / "first", "Some_Thing", "[console_scripts]\nx = y\n", "2.0")
    second = install(tmp_path / "second", "some_thing", "[tinyagent.tools]\nx = y\n", "1.0")
    assert () == scan((str(first), str(second)))
    assert ["1.0"] == [entry.version for entry in scan((str(second), str(first)))]


def test_the_working_directory_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory is ignored, as '' and by its name."""
    install(tmp_path, "evil", "[tinyagent.hooks]\nevil = evil\n")
    monkeypatch.chdir(tmp_path)
    assert () == scan(("", str(tmp_path)))


def test_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    """Missing directories, files on the path and broken metadata are ignored."""
    (tmp_path / "a.zip").write_bytes(b"PK")
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_bytes(b"[tinyagent.tools]\n\xff = \xfe\nno equals sign\n")
    found = scan((str(tmp_path / "nope"), str(tmp_path / "a.zip"), str(tmp_path)))
    assert [("\ufffd", "broken", "1.0")] == [
        (entry.name, entry.distribution, entry.version) for entry in found
    ]


@pytest.mark.parametrize(
    ("variable", "names"),
    [(None, ["a", "b"]), ("a", ["a"]), ("dist-b, ", ["b"]), ("Dist_B", ["b"]), ("", []), ("c", [])],
)
def test_the_environment_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, names: list[str]
) -> None:
    """TINYAGENT_PLUGINS allows names or distributions; empty allows no plugin."""
    for name in "ab":
        install(tmp_path, f"dist_{name}", f"[tinyagent.tools]\n{name} = {name}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    if variable is not None:
        monkeypatch.setenv("TINYAGENT_PLUGINS", variable)
    assert names == [entry.name for entry in find("tools")]
    assert [] == find("hooks")


def test_it_imports_no_metadata_machinery() -> None:
    """The scan imports only small modules of the standard library."""
    assert not hasattr(entry_points, "metadata")
    assert {"os", "sys"} <= set(vars(entry_points))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("calc", False), ("a.b", False), ("x.py", True), ("./x", True), ("x.py:f", True), ("a/b", True)],
)
def test_what_is_a_file(name: str, expected: bool) -> None:
    """`-t` recognises a file by its suffix or a slash."""
    assert expected is names_a_file(name)
