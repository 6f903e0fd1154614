"""Cancel code that awaits something: one scope for aborts, time-outs and closing.

`asyncio.timeout` cancels a block from outside, and converts the cancellation to an ordinary exception at the
end of the block. `CancelScope` does the same with any exception:

    async with CancelScope(signal) as scope:      # setting the signal raises Aborted here
        loop.call_later(5, scope.cancel, ProviderTimeoutError("no event for 5 s"))
        await something()
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from .errors import AgentStateError, ToolError

__all__ = [
    "ABORTED",
    "AbortSignal",
    "Aborted",
    "CallbackCancelledError",
    "CancelScope",
    "Failed",
    "SignalWatch",
    "best_effort",
    "call_abandonable",
    "invoke",
    "is_awaited_by",
    "is_cancelled",
    "leave_task",
    "outcome",
    "require_asyncio",
    "resolve",
    "result_of",
    "run_in_thread",
    "run_to_completion",
    "run_until_aborted",
    "shielded",
    "spawn",
    "wake",
]

T = TypeVar("T")

ABORTED = "Operation aborted"
"""The text of the result of a tool call that an abort has ended."""

CALLBACK_GRACE_S = 1.0
"""Seconds that a callback has to react to its cancellation, before the run continues without it."""

CLEANUP_LIMIT_S = 30.0
"""Seconds after which a clean-up that must not be interrupted is given up."""


def require_asyncio() -> asyncio.AbstractEventLoop:
    """Return the running event loop.

    Raises:
        AgentStateError: There is no asyncio event loop, because another library (trio, curio) drives the
            coroutine.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise AgentStateError(
            "tinyagent runs on asyncio, and no asyncio event loop is running here; trio and curio have none.",
            hint="Start the program with asyncio.run(). Under trio, call asyncio.run() in a thread: "
            "trio.to_thread.run_sync().",
        ) from None


class Aborted(Exception):
    """The signal was set. This exception is internal and never leaves a run."""

    def __init__(self, message: str = "The run was aborted.") -> None:
        super().__init__(message)


class CallbackCancelledError(RuntimeError):
    """A callback raised `CancelledError`, although the task was not cancelled."""


class AbortSignal(asyncio.Event):
    """An `asyncio.Event` that also calls callbacks, so that waiting for it needs no task."""

    def __init__(self) -> None:
        super().__init__()
        self._callbacks: dict[object, Callable[[], None]] = {}

    def set(self) -> None:
        """Set the event, and call the callbacks in the order of their subscription."""
        if not self.is_set():
            super().set()
            for callback in list(self._callbacks.values()):
                callback()

    def subscribe(self, key: object, callback: Callable[[], None]) -> None:
        """Let `set` call `callback`. If the signal is already set, call it at once."""
        self._callbacks[key] = callback
        if self.is_set():
            callback()

    def unsubscribe(self, key: object) -> None:
        """Remove the callback of this key."""
        self._callbacks.pop(key, None)


class SignalWatch:
    """Calls a function when a signal is set, until `stop`. Only an `AbortSignal` needs no task for this."""

    def __init__(self, signal: asyncio.Event, callback: Callable[[], None]) -> None:
        self._signal = signal
        self.task: asyncio.Task[None] | None = None
        if isinstance(signal, AbortSignal):
            signal.subscribe(self, callback)
        else:
            self.task = asyncio.create_task(self._wait(callback))

    async def _wait(self, callback: Callable[[], None]) -> None:
        await self._signal.wait()
        callback()

    def stop(self) -> None:
        """Do not call the function any more. The task, if there is one, ends soon."""
        if isinstance(self._signal, AbortSignal):
            self._signal.unsubscribe(self)
        elif self.task is not None:
            self.task.cancel()


class CancelScope:
    """A block that `cancel` or a signal ends with an exception. It may be entered again after its end.

    Args:
        signal: When it is set, the block ends with `Aborted`.
    """

    def __init__(self, signal: asyncio.Event | None = None) -> None:
        self._reason: BaseException | None = None
        self._signal = signal
        self._watch: SignalWatch | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0

    @property
    def is_active(self) -> bool:
        """Whether a task is in the block."""
        return self._task is not None

    def cancel(self, reason: BaseException) -> None:
        """End the block with `reason`. Outside a block, end the next one at once.

        Only the first call has an effect.
        """
        if self._reason is None:
            self._reason = reason
            if self._task is not None:
                self._task.cancel()

    async def __aenter__(self) -> Self:
        if self._reason is not None:
            raise self._reason
        signal = self._signal
        if signal is not None and signal.is_set():
            raise Aborted
        self._task = asyncio.current_task()
        assert self._task is not None, "a CancelScope needs a task"
        self._cancelling = self._task.cancelling()
        if signal is not None:
            self._watch = SignalWatch(signal, lambda: self.cancel(Aborted()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        assert task is not None
        reason = self._reason  # A later one is for the next block.
        watch, self._watch = self._watch, None
        if reason is None and watch is None:
            return
        if watch is not None:
            watch.stop()
        cancelled = error if isinstance(error, asyncio.CancelledError) else None
        if (watch is not None and watch.task is not None) or (reason is not None and cancelled is None):
            # Let the watcher end. If the task has cancelled its own scope, the cancellation is delivered
            # here, and not at the next `await` of the task.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as delivered:
                cancelled = delivered
        if reason is None:
            if cancelled is not error and cancelled is not None:
                raise cancelled
            return
        if task.uncancel() > self._cancelling:
            if cancelled is not None and cancelled is not error:
                raise cancelled  # Other code cancels the task as well, and this has priority.
        elif error is None or cancelled is error:
            raise reason from None


async def resolve(value: T | Awaitable[T]) -> T:
    """Await the result of a callback, if it is awaitable."""
    if isinstance(value, Awaitable):
        result: T = await value
        return result
    return value


async def invoke(callback: Callable[..., T | Awaitable[T]], *args: object) -> T:
    """Call a callback that may be sync or async.

    Raises:
        CallbackCancelledError: It raised `CancelledError` although this task is not cancelled, because
            something that it awaited was. `CancelledError` would look like a cancellation of this task.
    """
    try:
        return await resolve(callback(*args))
    except asyncio.CancelledError as error:
        if is_cancelled(asyncio.current_task()):
            raise
        raise _cancelled_inside(callback) from error


async def call_abandonable(
    signal: asyncio.Event | None, callback: Callable[..., T | Awaitable[T]], *args: object
) -> T:
    """Do the same as `invoke`, but end on abort or cancellation even if the callback suppresses it.

    An async callback runs in its own task. On abort, this task is cancelled, and after `CALLBACK_GRACE_S`
    seconds it is abandoned.

    Raises:
        Aborted: The signal was set.
        CallbackCancelledError: See `invoke`.
    """
    if signal is not None and signal.is_set():
        raise Aborted
    try:
        value = callback(*args)
    except asyncio.CancelledError as error:
        raise _cancelled_inside(callback) from error
    if not isinstance(value, Awaitable):
        return value
    task: asyncio.Task[T | Failed] = spawn(outcome(value))
    try:
        async with CancelScope(signal):
            await asyncio.wait([task])
        if task.cancelled():
            raise _cancelled_inside(callback)
        return result_of(task)
    except (Aborted, asyncio.CancelledError):
        await leave_task(task, CALLBACK_GRACE_S)
        raise
    finally:
        del task  # It holds the exception, whose traceback holds this frame.


async def run_until_aborted(work: Awaitable[T], signal: asyncio.Event | None) -> T:
    """Await `work` in an async tool, and cancel it when the run is aborted.

        @tool
        async def download(url: str, signal: asyncio.Event | None) -> str:
            '''Download a page.'''
            return await run_until_aborted(fetch(url), signal)

    `work` can clean up when it is cancelled; this function waits for it.

    Args:
        work: A coroutine or another awaitable.
        signal: The abort signal of the tool call; None to await `work` without one.

    Raises:
        ToolError: The run was aborted.
    """
    try:
        async with CancelScope(signal):
            return await work
    except Aborted:
        raise ToolError(ABORTED) from None
    finally:
        if inspect.iscoroutine(work):
            work.close()  # no effect unless the signal was set before it could start


async def run_in_thread(function: Callable[[], T], name: str) -> T:
    """Call a function in a daemon thread, which delays neither the event loop nor the exit of the process.

    The thread has a copy of the current context variables. If the caller is cancelled, the thread continues
    and its result is discarded.

    Args:
        function: The function to call.
        name: The name of the thread.

    Raises:
        BaseException: What the function raised. `StopIteration` and `KeyboardInterrupt` become a
            `RuntimeError`, because they have another meaning in a task.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(deliver: Callable[[], None]) -> None:
        if not future.done():
            deliver()

    def work() -> None:
        try:
            result = context.run(function)
        except StopIteration as stop:
            error = RuntimeError(f"the function raised StopIteration({stop.value!r})")
            deliver = partial(future.set_exception, error)
        except KeyboardInterrupt:  # Ctrl-C arrives in the main thread. This one would end the event loop.
            deliver = partial(future.set_exception, RuntimeError("the function raised KeyboardInterrupt"))
        except BaseException as raised:  # noqa: BLE001 - raised in the awaiting task, including SystemExit
            deliver = partial(future.set_exception, raised)
        else:
            deliver = partial(future.set_result, result)
        with contextlib.suppress(RuntimeError):  # The loop was closed.
            loop.call_soon_threadsafe(settle, deliver)

    threading.Thread(target=work, name=name, daemon=True).start()
    return await future


class Failed(NamedTuple):
    """The outcome of an awaitable that raised."""

    error: BaseException


async def outcome(awaitable: Awaitable[T]) -> T | Failed:
    """Return the result or the exception. A task that raises `SystemExit` would end the event loop."""
    try:
        return await awaitable
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - the caller raises it
        return Failed(error)


def result_of(task: asyncio.Task[T | Failed]) -> T:
    """Return the result of a task that has ended, or raise its exception; see `outcome`."""
    result = task.result()
    if isinstance(result, Failed):
        try:
            raise result.error
        finally:
            del task, result  # They hold the exception, whose traceback holds this frame.
    return result


def _cancelled_inside(callback: object) -> CallbackCancelledError:
    name = getattr(callback, "__name__", None) or type(callback).__name__
    return CallbackCancelledError(f"{name} was cancelled from inside")


async def leave_task(task: asyncio.Task[object], grace: float) -> None:
    """Cancel a task, and wait for it for up to `grace` seconds. Its result is discarded."""
    task.add_done_callback(_drop_result)
    task.cancel()
    if not task.done():
        await asyncio.wait([task], timeout=grace)


def _drop_result(task: asyncio.Task[object]) -> None:
    if not task.cancelled():
        task.exception()


def is_cancelled(task: asyncio.Task[object] | None) -> bool:
    """Whether a task is cancelled, so that a `CancelledError` in it is for this task."""
    return task is not None and task.cancelling() > 0


def wake(waiter: asyncio.Future[None] | None) -> None:
    """Let a task continue that waits for this future, if there is one."""
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


_awaited_by: weakref.WeakKeyDictionary[asyncio.Task[object], asyncio.Task[object] | None] = (
    weakref.WeakKeyDictionary()
)


def spawn(coroutine: Coroutine[object, object, T]) -> asyncio.Task[T]:
    """Create a task that the current task will wait for."""
    task = asyncio.create_task(coroutine)
    _awaited_by[task] = asyncio.current_task()
    return task


def is_awaited_by(task: asyncio.Task[object] | None) -> bool:
    """Whether `task` is the current task, or waits for it."""
    current = asyncio.current_task()
    while current is not None:
        if current is task:
            return True
        current = _awaited_by.get(current)
    return False


async def shielded(coroutine: Coroutine[object, object, T], grace: float) -> T:
    """Await a coroutine that a cancellation of the current task should not interrupt at once.

    After the cancellation, the coroutine has `grace` seconds and is then cancelled itself. A second
    cancellation does not wait.
    """
    task = spawn(coroutine)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _wind_up(task, grace)
        raise


async def best_effort(coroutine: Coroutine[object, object, None], limit: float) -> None:
    """Await a coroutine for up to `limit` seconds, and then cancel it. Its errors are discarded."""
    await _wind_up(spawn(coroutine), limit)


async def _wind_up(task: asyncio.Task[object], grace: float) -> None:
    if not task.done():
        try:
            await asyncio.wait([task], timeout=grace)
        finally:
            task.cancel()
        await asyncio.wait([task], timeout=grace)
    task.add_done_callback(_drop_result)


async def run_to_completion(coroutine: Coroutine[object, object, T]) -> T:
    """Await a coroutine to its end, even if the current task is cancelled, also repeatedly.

    Use it in code that handles a cancellation and raises it again afterwards.

    Raises:
        TimeoutError: The coroutine took longer than `CLEANUP_LIMIT_S`.
    """
    task = spawn(coroutine)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CLEANUP_LIMIT_S
    while not task.done():
        try:
            await asyncio.wait([task], timeout=deadline - loop.time())
        except asyncio.CancelledError:
            continue
        if loop.time() >= deadline and not task.done():
            task.cancel()
            raise TimeoutError(f"the cleanup took longer than {CLEANUP_LIMIT_S:g} s")
    return task.result()
