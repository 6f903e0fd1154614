"""The executors of tinyagent itself, and the choice of one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import msgspec

from tinyagent.agent_types import JsonValue
from tinyagent.executors import BatchItem, Executor, ExecutorFactory, Job, WorkerSpec, read_options, run_items
from tinyagent_cli.config.settings import Settings
from tinyagent_cli.plugins.registry import PluginLoader

from .processes import ProcessesExecutor, ProcessOptions

__all__ = ["FACTORIES", "LocalExecutor", "choose_executor"]


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of an executor without options."""


class LocalExecutor:
    """Runs all items in the event loop of this process."""

    async def run(self, spec: WorkerSpec, items: AsyncIterator[BatchItem], job: Job) -> None:
        """Run all items. See `tinyagent.executors.Executor`."""
        worker = spec.make_worker()
        try:
            await run_items(worker, spec.concurrency, items, job)
        finally:
            await worker.aclose()


def _local(options: Mapping[str, JsonValue]) -> Executor:
    read_options("local", options, NoOptions)
    return LocalExecutor()


def _processes(options: Mapping[str, JsonValue]) -> Executor:
    return ProcessesExecutor(read_options("processes", options, ProcessOptions))


FACTORIES: dict[str, ExecutorFactory] = {"local": _local, "processes": _processes}
"""The factories of the executors that are not plugins."""


def choose_executor(name: str, options: Mapping[str, JsonValue], settings: Settings) -> Executor:
    """Return an executor with its options, which take precedence over those of the configuration.

    Raises:
        TinyAgentError: There is no such executor, its plugin cannot be used, or an option is wrong.
    """
    factory = FACTORIES.get(name) or PluginLoader.from_settings(settings).executor(name)
    return factory({**settings.executors.get(name, {}), **options})
