"""The items of a reply of the Responses API, and the choice of the item that an event belongs to.

An item is identified by its id. Its position counts only if ids are missing or change between events, as with
some proxies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from tinyagent._json import as_dict, as_int, as_str

__all__ = ["Item", "Items"]


class Item:
    """An item of the reply, with one block for each part of its content."""

    __slots__ = (
        *("annotations", "blocks", "call_id", "ended", "received", "has_stable_id", "id", "kind", "latest"),
        *("phase", "refusals", "source", "wholes"),
    )

    def __init__(self, kind: str, item_id: str) -> None:
        self.kind = kind
        self.id = item_id
        self.has_stable_id = False
        """Whether another event had the same id. Some servers use a new id for each event."""
        self.call_id = ""
        self.blocks: dict[int, int] = {}
        """Part of the content -> block."""
        self.annotations: dict[int, list[object]] = {}
        self.refusals: set[int] = set()
        self.phase: object = None
        self.source = ""
        """The kind of events that the reasoning is read from. A server may send two kinds."""
        self.latest = 0
        """The latest part of the reasoning."""
        self.wholes: set[int] = set()
        """Parts that arrived complete, before any of their deltas."""
        self.ended = False
        self.received: dict[str, object] = {}
        """The complete item, once it has arrived."""

    def has_whole(self, part: int, event: Mapping[str, object]) -> bool:
        """Whether a delta repeats a complete part. Without an id, it may belong to another item."""
        return part in self.wholes and bool(self.id) and event.get("item_id") == self.id

    @property
    def is_cut(self) -> bool:
        """Whether the API has marked a text or a call as incomplete."""
        return self.kind in ("message", "function_call") and self.received.get("status") == "incomplete"

    @property
    def is_raw(self) -> bool:
        """Whether the item has no text and is only stored, to be sent back unchanged."""
        return self.kind not in ("message", "function_call", "reasoning")


class Items:
    """The items of a reply, in the order of their first events."""

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._by_id: dict[str, Item] = {}
        self._at: dict[tuple[int | None, str], Item] = {}
        """The latest item for each position and kind. Some servers send wrong positions."""

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def latest(self) -> Item:
        """Return the item that was added last."""
        return self._items[-1]

    def of_event(
        self,
        value: Mapping[str, object],
        kind: str,
        received: Mapping[str, object] | None = None,
        begins: bool = False,
    ) -> Item:
        """Return the item of an event; a new one if the event is its first.

        Args:
            value: The event.
            kind: The item's type.
            received: The item, if the event holds it.
            begins: Whether the event announces an item.
        """
        item_id = as_str((received or {}).get("id")) or as_str(value.get("item_id"))
        item = self._by_id.get(item_id)
        if item is not None and item.kind == kind and not (begins and item.ended):
            item.has_stable_id = item.has_stable_id or (received is None and item_id == item.id)
            return item
        place = (as_int(value.get("output_index")), kind)
        here = self._at.get(place)
        if here is not None and not self._is_another(here, item_id, received, begins):
            if item_id:
                here.id = here.id or item_id
                self._by_id.setdefault(item_id, here)
            return here
        self._at[place] = item = self._add(kind, item_id)
        return item

    def match(self, output: object) -> Iterator[tuple[Item, dict[str, object]]]:
        """Yield each item of the list at the end of a reply, with the item that was streamed for it.

        An item that was not streamed is added. The caller ends each item before it asks for the next one.
        """
        listed = [as_dict(received) for received in output] if isinstance(output, list) else []
        listed = [received for received in listed if as_str(received.get("type"))]
        found: dict[int, Item] = {}
        for at, received in enumerate(listed):
            item = self._by_id.get(as_str(received.get("id")))
            if item is not None and item.kind == received["type"]:
                found[at] = item
        matched = {id(item) for item in found.values()}
        unmatched: dict[str, deque[Item]] = {}
        for item in self._items:
            if id(item) not in matched:
                unmatched.setdefault(item.kind, deque()).append(item)
        for at, received in enumerate(listed):
            item = found.get(at)
            if (
                item is None
                and (known := self._by_id.get(as_str(received.get("id"))))
                and known.received == received
            ):
                continue  # listed twice
            if item is None:
                # Without an id or with a new one, it is the next item of this kind.
                kind = as_str(received["type"])
                rest = unmatched.get(kind)
                item = rest.popleft() if rest else self._add(kind, as_str(received.get("id")))
            yield item, received

    @staticmethod
    def _is_another(here: Item, item_id: str, received: Mapping[str, object] | None, begins: bool) -> bool:
        """Whether an event at the position of `here`, with an unknown id, belongs to another item."""
        if here.ended:
            return begins or (bool(item_id) and {**here.received, "id": ""} != {**(received or {}), "id": ""})
        return bool(item_id and here.id) and (begins or here.has_stable_id)

    def _add(self, kind: str, item_id: str) -> Item:
        item = Item(kind, item_id)
        self._items.append(item)
        if item_id:
            self._by_id[item_id] = item
        return item
