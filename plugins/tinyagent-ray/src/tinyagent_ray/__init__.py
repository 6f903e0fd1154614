"""The executor `ray` for `tinyagent batch`: it runs the items on a Ray cluster.

Ray is imported when a batch runs, not with this module.
"""

from __future__ import annotations

from collections.abc import Callable

from tinyagent import hookimpl
from tinyagent.executors import ExecutorFactory, read_options

from ._executor import RayExecutor, RayOptions

__all__ = ["RayExecutor", "RayOptions"]


@hookimpl
def tinyagent_register_executors(register: Callable[[str, ExecutorFactory], None]) -> None:
    """Register `ray`."""
    register("ray", lambda options: RayExecutor(read_options("ray", options, RayOptions)))
