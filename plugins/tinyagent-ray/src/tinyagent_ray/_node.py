"""What a node of the cluster lacks. Ray gets this module by value, since a node may lack the plugin."""

from __future__ import annotations

import os
import sys
from importlib import metadata

__all__ = ["find_problems"]


def find_problems(
    name: str,
    python: tuple[int, int],
    requirements: dict[str, str],
    directory: str | None,
    markers: list[str],
) -> list[str]:
    """Return what this node lacks, as sentences.

    Args:
        name: The name of the node, for the sentences.
        python: The version of Python that the command runs.
        requirements: The versions of the distributions that a worker needs, by their names.
        directory: The working directory of the batch; None if Ray copies it to the nodes.
        markers: Files that the command has written into the folders that all nodes must share.
    """
    if sys.version_info[:2] != python:
        found, wanted = (".".join(map(str, version)) for version in (sys.version_info[:2], python))
        return [f"{name} has Python {found}, and this machine has {wanted}. Ray needs the same version."]
    problems = []
    for distribution, version in requirements.items():
        try:
            there = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            problems.append(f"{name} lacks {distribution} {version}.")
            continue
        if there != version:
            problems.append(f"{name} has {distribution} {there}, and this machine has {version}.")
    if directory is not None and not os.path.isdir(directory):  # noqa: PTH112 - Ray gets few imports
        problems.append(f"{name} has no folder {directory}, the working directory of the batch.")
    problems += [
        f"{name} does not share the folder {os.path.dirname(marker)} with this machine."  # noqa: PTH120
        for marker in markers
        if not os.path.exists(marker)  # noqa: PTH110
    ]
    return problems
