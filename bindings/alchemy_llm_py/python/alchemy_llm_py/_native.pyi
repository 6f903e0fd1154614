"""The interface between Python and Rust. It is private; `alchemy_llm_py` is the public API.

Threads. All requests of a process run on one Tokio runtime with two threads. The first `Stream` starts it,
and it never ends, so that interpreter exit does not wait. Its threads never run Python, take the GIL or call
back: they fill a queue, and the caller of `take`, which holds the GIL, empties it.

The GIL. Every call returns at once and holds the GIL. Python waits: an event loop, or `poll`, watches the
socket of a waker, with the GIL released. A thread that waits in Rust while the interpreter exits would crash
the process.

Batches. A step is a tuple; `take` returns all steps since the last call. The reader is woken once per batch,
and again only after it has called `take`. While more than 1 MiB of steps wait, the connection is not read.

Sentinels. An empty list: no steps yet. None: no more steps, because the last one was taken or the stream was
closed.

Forks. A stream and a waker belong to the process that made them. In a forked process they raise
`RuntimeError`; a new `Stream` starts a new runtime, and the connections of the parent are not touched.
"""

from typing import Final, final

Step = tuple[int, int, str] | tuple[int, int, str, str]
"""`(kind, block, text)`, by kind:

0 start of the reply; 1 start of text, 2 text, 3 end of text; 4 start of thinking, 5 thinking, 6 end of
thinking (the text is its signature); 7 start of a tool call (`(7, block, id, name)`), 8 part of its arguments
as JSON text; 9 the last step: the text is `Facts` in `transport/src/exchange.rs` as JSON, with the failure if
any.

Blocks are numbered from 0 in the order of their start. A tool call may continue after the start of another
block, and has no end step.
"""

@final
class Waker:
    """A socket that an event loop watches for many streams."""

    def __new__(cls) -> Waker: ...
    def fileno(self) -> int:
        """Return the descriptor that becomes readable. The waker owns it."""

    def drain(self) -> list[int]:
        """Empty the socket, and return the ids of the streams with new steps."""

@final
class Stream:
    """An active request.

    `request` is JSON (`Request` in `src/convert.rs`): what alchemy-llm is called with, and `exchange`, the
    settings of the HTTP client below it. `body` replaces the body that alchemy-llm would send.

    Raises:
        ValueError: if the request cannot be read, or alchemy-llm has no such API.
    """

    id: Final[int]
    """The id that `Waker.drain` returns."""

    def __new__(cls, request: bytes, body: bytes | None = None, waker: Waker | None = None) -> Stream: ...
    def take(self) -> list[Step] | None:
        """Return the new steps; see "Sentinels"."""

    def close(self) -> None:
        """End the request at once: close its connection, discard its steps, and wake its waker."""
