"""The seam between Python and Rust. Private: `alchemy_llm_py` is the API, this is how it is made.

Threads. All requests of a process run on one Tokio runtime with two threads of its own, begun by the first
`Stream` and never ended, so that interpreter exit waits for nothing. None of these threads ever runs
Python, takes the GIL or calls back: they fill a queue, and whoever comes with the GIL takes what is there.

The GIL. Every call returns at once and keeps it. Waiting is Python's: an event loop, or `poll`, watches the
socket of a waker, with the GIL released. A thread that waited inside Rust while the interpreter exits would
take the process down with it.

Batches. A step is a tuple; `take` gives all that have come since the last time. The reader is woken once
for them, however many they are, and again only after it has come and taken. More than a MiB of waiting steps
stop the reading of the socket until there is room.

Sentinels. An empty list: nothing yet. None: nothing any more, as the last step was taken or the stream was
closed.

Forks. A stream and a waker belong to the process that made them; in a forked one they raise `RuntimeError`,
a new `Stream` begins a runtime of its own, and nothing that the parent had open is touched.
"""

from typing import Final, final

Step = tuple[int, int, str] | tuple[int, int, str, str]
"""`(kind, block, text)`, by kind:

0 the reply has begun; 1 text begins, 2 text, 3 text ends; 4 thinking begins, 5 thinking, 6 thinking ends
(the text is what has to go back with it); 7 a tool call begins (`(7, block, id, name)`), 8 a piece of its
arguments as JSON text; 9 the last step: the text is the facts as JSON (`Facts` in
`transport/src/exchange.rs`), a failure among them.

Blocks are numbered from 0 in the order in which they begin. A tool call may go on after another block
began; it has no end of its own.
"""

@final
class Waker:
    """A socket for an event loop to watch; one for many streams."""

    def __new__(cls) -> Waker: ...
    def fileno(self) -> int:
        """The descriptor that becomes readable. It belongs to the waker."""

    def drain(self) -> list[int]:
        """The ids of the streams that have something to take, and the socket is empty again."""

@final
class Stream:
    """A request under way.

    `request` is JSON (`Request` in `src/convert.rs`): what alchemy-llm is called with, and `exchange`, the
    settings of the HTTP client below it. `body` replaces the body that alchemy-llm would send.

    Raises:
        ValueError: if the request cannot be read, or alchemy-llm has no such API.
    """

    id: Final[int]
    """What a waker calls it by."""

    def __new__(cls, request: bytes, body: bytes | None = None, waker: Waker | None = None) -> Stream: ...
    def take(self) -> list[Step] | None:
        """The steps that have come; see "Sentinels"."""

    def close(self) -> None:
        """End the request at once: its connection is closed, no step comes any more, its waker says so."""
