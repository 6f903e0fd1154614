"""The child of `tinyagent.tools.run_in_process`: a script that calls one function and sends its result.

It is started as `python -I _process_child.py FOLDER`, can be killed at any moment, and imports little. FOLDER
has msgspec, which the request needs.
Standard input has one request in MessagePack: a `dict` with

- `path`: the module search path,
- `module`, `file`, `name`: the location of the function; `file` (or None) is loaded if `module` cannot be
  imported,
- `tool`: whether it is a tool; `_tool_child` then calls it,
- `arguments`, `count`: the positional arguments, encoded in MessagePack and converted to the function's type
  hints, and their number,
- `memory` (bytes), `seconds`, `parent` (process id, or None in a sandbox): limits, see `_limit`.

Standard output has frames: the length of the payload in 4 bytes (big-endian), one byte for the kind, and
the payload in MessagePack. The kinds are `ITEM` (a generator's item), `RESULT`, `FAILED` (a message for the
model), `RAISED` (another exception: its message and traceback) and `MEMORY` (out of memory).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Generator
from typing import Any

ITEM, RESULT, FAILED, RAISED, MEMORY = b"i", b"r", b"f", b"x", b"m"
SPARE_SECONDS = 2.0
PR_SET_PDEATHSIG = 1

UNTYPED: object = Any
"""The type of a value without a type hint: it is not converted."""


def main() -> None:
    """Process the request on standard input, then exit at once, without running finalizers."""
    answers, errors = os.dup(1), os.dup(2)
    _silence()
    try:
        _answer(answers, sys.stdin.buffer.read())
    except BrokenPipeError:
        pass  # the parent has stopped reading
    except Exception as error:  # noqa: BLE001 - it could not start
        os.write(errors, f"{type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(0)


def _silence() -> None:
    """Discard the output of the function, so that it cannot mix with the frames."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.close(nothing)


def _answer(answers: int, data: bytes) -> None:
    sys.path.append(sys.argv[1])
    import msgspec

    def send(kind: bytes, payload: bytes) -> None:
        view = memoryview(len(payload).to_bytes(4, "big") + kind + payload)
        while view:
            view = view[os.write(answers, view) :]

    encode = msgspec.msgpack.encode
    try:
        request = msgspec.msgpack.decode(data)
        del data
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _limit(request["memory"], request["seconds"], request["parent"])
        sys.path[:] = request["path"]
        function = _load(request["module"], request["file"], request["name"])
        result: object
        if request["tool"]:
            from tinyagent._tool_child import call_tool

            call_id, arguments = msgspec.msgpack.decode(request["arguments"])
            result = call_tool(function, call_id, arguments, lambda item: send(ITEM, encode(item)))
        else:
            function = getattr(function, "function", function)  # of a tool
            types = _types(function, request["count"])
            result = function(*msgspec.msgpack.decode(request["arguments"], type=types))
            if isinstance(result, Generator):
                result = _drain(result, lambda item: send(ITEM, encode(item)))
        payload = encode(result)
    except MemoryError:
        send(MEMORY, b"")
    except Exception as error:  # noqa: BLE001 - the parent raises it
        errors = sys.modules.get("tinyagent.errors")
        if errors is not None and isinstance(error, errors.ToolError):
            send(FAILED, encode(_text(str(error))))
        else:
            import traceback

            lines = "".join(traceback.format_exception(error))
            send(RAISED, encode([_text(f"{type(error).__name__}: {error}"), _text(lines)]))
    else:
        send(RESULT, payload)


def _text(text: str) -> str:
    """Escape unpaired surrogates, which MessagePack cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode()


def _drain(generator: Generator[object, None, object], on_item: Callable[[object], None]) -> object:
    while True:
        try:
            item = next(generator)
        except StopIteration as stop:
            return stop.value
        on_item(item)


def _types(function: Callable[..., object], count: int) -> object:
    """Return the type of the argument tuple, from the type hints of the positional parameters."""
    import inspect
    from types import GenericAlias
    from typing import get_type_hints

    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return tuple
    named = [parameter for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
    # The last arguments may be omitted, so the type depends on their number.
    return GenericAlias(tuple, tuple(hints.get(parameter.name, UNTYPED) for parameter in named[:count]))


def _load(module: str, file: str | None, name: str) -> Callable[..., object]:
    import importlib.util

    if file is None:
        loaded = importlib.import_module(module)
    else:
        # Not as `__main__`, so the code under `if __name__ == "__main__"` does not run.
        spec = importlib.util.spec_from_file_location(module, file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} cannot be loaded as a module")
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[module] = loaded
        spec.loader.exec_module(loaded)
    found: object = loaded
    for part in name.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{name} in {module} is not a function")
    return found


def _limit(memory: int | None, seconds: float | None, parent: int | None) -> None:
    """Set kernel limits, so that this process ends even if its parent cannot kill it.

    Memory is limited where the platform enforces RLIMIT_AS (not on macOS). A timer ends the process after its
    time limit. On Linux it also ends together with its parent (PR_SET_PDEATHSIG); in a sandbox the program in
    between takes care of that.
    """
    try:
        import resource
    except ImportError:
        return  # Windows
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory is not None:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        try:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        except (OSError, ValueError):
            pass  # macOS refuses some limits
    if seconds is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the parent may ignore or block it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        signal.setitimer(signal.ITIMER_REAL, seconds + SPARE_SECONDS)
    if sys.platform == "linux" and parent is not None:
        end_with_parent(parent)


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return  # The timer remains.
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
