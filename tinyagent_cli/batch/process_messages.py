"""The messages between `batch --executor processes` and its worker processes.

Each is one frame: the length of the payload in 4 bytes (big-endian), and the payload in JSON. MessagePack
has no integers above 64 bits, which items may have. The first frame to a worker is its `WorkerSpec`; it
answers with `Ready` or `Refused`. Each further frame to it is a `BatchItem`, and it answers each with
`Finished` or `Raised`, in any order. At the end of its input, it cancels what is in flight and exits.
"""

from __future__ import annotations

import asyncio

import msgspec

from tinyagent.executors import ItemResult

__all__ = ["Finished", "Message", "Raised", "Ready", "Refused", "frame", "read_frame"]


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The worker can run items."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The worker cannot be set up.

    Attributes:
        message: Why.
        hint: What to do.
    """

    message: str
    hint: str | None


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """An item has its result."""

    result: ItemResult


class Raised(msgspec.Struct, frozen=True, tag="raised"):
    """An item has no result, because of an error in the worker's own code.

    Attributes:
        id: The id of the item.
        message: The error.
    """

    id: str
    message: str


Message = Ready | Refused | Finished | Raised
"""What a worker sends."""


def frame(message: msgspec.Struct) -> bytes:
    """Return a message as a frame.

    Raises:
        ValueError: It cannot be encoded.
    """
    payload = msgspec.json.encode(message)
    return len(payload).to_bytes(4, "big") + payload


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """Return the payload of the next frame; None at the end, also inside a frame."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        return await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return None
