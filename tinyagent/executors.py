"""What an executor of `tinyagent batch` is, and what it gets: it decides where the items of a batch run.

An executor gets the recipe for workers (`WorkerSpec`), makes workers from it where it likes, and gives them
items. A worker returns results, and the job (`Job`) writes them. `run_items` runs items with one worker in
this event loop. `run_on_workers` runs them with several workers, which are elsewhere and may be lost.

`BatchItem`, `ItemResult` and `WorkerSpec` can be sent to other processes and machines: `msgspec.json` encodes
and decodes them, and pickle does, too. None of them contains a key.

    from tinyagent import hookimpl
    from tinyagent.executors import read_options

    @hookimpl
    def tinyagent_register_executors(register):
        register("mine", lambda options: MyExecutor(read_options("mine", options, MyOptions)))
"""

from __future__ import annotations

from ._executors.dispatch import run_items, run_on_workers
from ._executors.interface import (
    BatchItem,
    Executor,
    ExecutorFactory,
    ItemResult,
    Job,
    Worker,
    WorkerSpec,
    read_options,
)

__all__ = [
    "BatchItem",
    "Executor",
    "ExecutorFactory",
    "ItemResult",
    "Job",
    "Worker",
    "WorkerSpec",
    "read_options",
    "run_items",
    "run_on_workers",
]
