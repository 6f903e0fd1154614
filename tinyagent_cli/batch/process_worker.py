"""A worker process of `batch --executor processes`, started with the process id of the command.

`process_messages` describes what it reads and writes. The kernel ends it together with its parent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import msgspec

from tinyagent._process_child import end_with_parent
from tinyagent.errors import TinyAgentError
from tinyagent.executors import BatchItem, Worker, WorkerSpec
from tinyagent_cli.exit_codes import describe
from tinyagent_cli.run.garbage import collect_from_now_on
from tinyagent_cli.run.kernel_guards import protect_memory
from tinyagent_cli.run.process_exit import exit_after_atexit, limit_exit, runner_closed_at_exit
from tinyagent_cli.terminal.output import Output, take_stdin, take_stdout

from .process_messages import Finished, Message, Raised, Ready, Refused, frame, read_frame

__all__ = ["main"]


def main(parent: int) -> None:
    """Run items until the input ends.

    Args:
        parent: The process id of the command.
    """
    exit_after_atexit()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which decides what ends
    if sys.platform == "linux":
        end_with_parent(parent)
    protect_memory()
    stdin, output = take_stdin(), take_stdout()
    if stdin is not None:
        runner_closed_at_exit().run(_serve(stdin, output))
    limit_exit(0)


async def _serve(stdin: int, output: Output) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(stdin, "rb"))
    first = await read_frame(reader)
    if first is None:
        return
    try:
        worker = msgspec.json.decode(first, type=WorkerSpec).make_worker()
    except TinyAgentError as error:
        failure = describe(error)
        _send(output, Refused(failure.message, failure.hint))
        return
    _send(output, Ready())
    collect_from_now_on()
    running: set[asyncio.Task[None]] = set()
    try:
        while (payload := await read_frame(reader)) is not None:
            task = asyncio.create_task(_run(worker, msgspec.json.decode(payload, type=BatchItem), output))
            running.add(task)
            task.add_done_callback(running.discard)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)  # the records end with their result line
        await worker.aclose()


async def _run(worker: Worker, item: BatchItem, output: Output) -> None:
    try:
        _send(output, Finished(await worker.run(item)))
    except Exception as error:  # noqa: BLE001 - without an answer, the command would wait without end
        _send(output, Raised(item.id, ascii(error)))


def _send(output: Output, message: Message) -> None:
    output.write_now(frame(message))


if __name__ == "__main__":
    main(int(sys.argv[1]))
