"""The log of one assistant message under construction.

**Pieces and counts.** The text of all blocks is one flat list of pieces, in the order of arrival. A piece is
never changed or removed. So the number of pieces, the *count*, is a point in time: the message at a count
follows from the first `count` pieces and from the changes before it. An event stores the trace and its
count, and needs no copy of the message. Adding a piece has constant cost.

**Marks.** A mark `(begin, index)` means: the pieces from `begin` on belong to block `index`, up to the next
mark. A message of one block has one mark. If a provider mixes the deltas of several blocks, there is a mark
for each switch. Each mark adds an empty piece. So each opened block and each change has its own count, even
if no text follows. `_runs[index]` lists the marks of one block. So reading a block takes time in proportion
to its own length, also in a message of many blocks.

**Changes.** A change `(begin, index, fields)` sets fields of a block other than the text of its pieces, for
example a signature. It applies to all counts after `begin`. The *tail* does the same for the fields of the
finished message.

**Text cache.** For each block the trace keeps the text that was read last, with its count. The next reading
joins only the pieces after it. So reading `partial` after each delta does not join all pieces each time.

The trace has no rules for events: `MessageBuilder` writes it for providers, and `jsonl` writes a second one
from the lines of a stream.
"""

from __future__ import annotations

import copy
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from operator import itemgetter
from typing import Self, TypeAlias, cast

from tinyagent.agent_types import AssistantMessage
from tinyagent.errors import InvalidReplyError

__all__ = ["MAX_BLOCKS", "TEXT_KEYS", "Fields", "Trace", "parse_partial_object"]

MAX_BLOCKS = 10_000
"""The most blocks of one message. More raise `InvalidReplyError`."""

TEXT_KEYS = {"text": "text", "thinking": "thinking", "tool_call": "partial_json"}
"""The field of each type of block that contains the text of its pieces."""

Fields: TypeAlias = dict[str, object]
"""Fields of a block or of a message."""

_begin_of = itemgetter(0)


class Trace:
    """The log of one message; see the module.

    Args:
        head: The fields of the message other than its content.

    Attributes:
        head: The same.
        pieces: The text of all blocks. Its length is the current count. Code that must be fast adds a piece
            to it without `append`, after a `mark` if the block is not `last`.
        changes: The changes as `(begin, index, fields)`, in order.
        last: The block of the last piece.
        delta_types: The type of the delta events of each block.
    """

    __slots__ = (
        "_blocks",
        "_cache",
        "_changes_of",
        "_marks",
        "_runs",
        "_tail",
        "_tail_from",
        "changes",
        "delta_types",
        "head",
        "last",
        "pieces",
    )

    def __init__(self, head: Fields) -> None:
        self.head: Fields = head
        self.pieces: list[str] = []
        self.changes: list[tuple[int, int, Fields]] = []
        self.last: int = -1
        self.delta_types: list[str] = []
        self._blocks: list[Fields] = []
        """Each block as it was opened."""
        self._marks: list[tuple[int, int]] = []
        self._runs: list[list[int]] = []
        self._changes_of: list[list[tuple[int, int, Fields]]] = []
        """The changes of each block."""
        self._tail: Fields = {}
        self._tail_from = sys.maxsize
        self._cache: dict[int, tuple[int, str]] = {}

    @classmethod
    def holding(cls, message: Mapping[str, object]) -> Self:
        """Return a trace that contains this message."""
        trace = cls({**message, "content": []})
        content = message["content"]
        for block in content if isinstance(content, list) else ():
            index = trace.open(dict(block))
            text_key = TEXT_KEYS.get(block["type"])
            if text_key is not None:
                trace.change(index, {text_key: None, **block})
        return trace

    # ---- writing --------------------------------------------------------------------------------

    def open(self, block: Fields) -> int:
        """Open a block and return its index.

        A tool call with None as its `arguments` gets the arguments that its text has so far.

        Raises:
            InvalidReplyError: There are `MAX_BLOCKS` blocks.
        """
        index = len(self._blocks)
        if index >= MAX_BLOCKS:
            name = str(self.head.get("provider") or "")
            raise InvalidReplyError(
                f"{name or 'the provider'}: the reply has more than {MAX_BLOCKS:,} blocks", provider=name
            )
        self._blocks.append(block)
        self.delta_types.append(f"{block['type']}_delta")
        self._runs.append([])
        self._changes_of.append([])
        self.mark(index)
        return index

    def append(self, index: int, piece: str) -> None:
        """Add a piece to a block."""
        if index != self.last:
            self.mark(index)
        self.pieces.append(piece)

    def change(self, index: int, fields: Fields) -> None:
        """Set fields of a block."""
        change = (len(self.pieces), index, fields)
        self.changes.append(change)
        self._changes_of[index].append(change)
        self.mark(index)

    def mark(self, index: int) -> None:
        """Assign the following pieces to a block."""
        self._runs[index].append(len(self._marks))
        self._marks.append((len(self.pieces), index))
        self.pieces.append("")
        self.last = index

    def finish(self, fields: Fields) -> None:
        """Set the last fields of the message."""
        self._tail = fields
        self._tail_from = len(self.pieces)
        self.pieces.append("")

    def with_head(self, head: Fields) -> Trace:
        """Return a trace with another head, to continue this one. Both share their pieces and changes.

        The events of this trace stay as they are, because each reads only up to its own count.
        """
        other = copy.copy(self)
        other.head = head
        return other

    # ---- reading --------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def count(self) -> int:
        """The current number of pieces."""
        return len(self.pieces)

    def type_of(self, index: int) -> str:
        """Return the type of a block."""
        return str(self._blocks[index]["type"])

    def message_at(self, count: int) -> AssistantMessage:
        """Return the message at `count` pieces as a new dict."""
        content = [self.block_at(index, count) for index in range(self.length_at(count))]
        message: Fields = {**self.head, "content": content}
        if count > self._tail_from:
            message |= self._tail
        # The writers of the trace put only fields of messages into it.
        return cast(AssistantMessage, message)

    def length_at(self, count: int) -> int:
        """Return the number of blocks at `count` pieces."""
        return bisect_left(self._runs, count, key=self._opened_at)

    def text_at(self, index: int, count: int) -> str:
        """Return the text of the pieces of a block at `count` pieces."""
        done, text = self._cache.get(index, (0, ""))
        if done > count:
            done, text = 0, ""
        marks, runs = self._marks, self._runs[index]
        first = max(bisect_right(runs, done, key=lambda n: marks[n][0]) - 1, 0)
        parts = [text]
        for n in runs[first:]:
            begin = marks[n][0]
            if begin >= count:
                break
            end = marks[n + 1][0] if n + 1 < len(marks) else count
            parts += self.pieces[max(begin, done) : min(end, count)]
        text = "".join(parts)
        self._cache[index] = count, text
        return text

    def fields_at(self, index: int, count: int) -> Fields:
        """Return the fields of a block that were changed at `count` pieces."""
        fields: Fields = {}
        for begin, _, changed in self._changes_of[index]:
            if begin >= count:
                break
            fields.update(changed)
        return fields

    def block_at(self, index: int, count: int) -> Fields:
        """Return a block at `count` pieces as a new dict."""
        block = dict(self._blocks[index])
        text_key = TEXT_KEYS.get(str(block["type"]))
        if text_key is None:
            return block
        block[text_key] = self.text_at(index, count)
        block.update(self.fields_at(index, count))
        if text_key == "partial_json":
            raw = block["partial_json"]
            if block["arguments"] is None:
                block["arguments"] = (parse_partial_object(raw) or {}) if isinstance(raw, str) else {}
            if raw is None:
                del block["partial_json"]
        return block

    def changed_between(self, since: int, until: int) -> set[int]:
        """Return the blocks that changed after `since` pieces and up to `until` pieces."""
        first = bisect_left(self._marks, since, key=_begin_of)
        last = bisect_left(self._marks, until, key=_begin_of)
        changed = {index for _, index in self._marks[first:last]}
        if first and since < until and (first == last or self._marks[first][0] > since):
            changed.add(self._marks[first - 1][1])
        return changed

    def _opened_at(self, runs: list[int]) -> int:
        return self._marks[runs[0]][0]


def parse_partial_object(text: str) -> dict[str, object] | None:
    """Parse a prefix of a JSON object as far as possible; None if it does not start like an object."""
    if not text:
        return None
    import jiter  # only for replies with tool calls

    try:
        value = jiter.from_json(text.encode("utf-8", "replace"), partial_mode="trailing-strings")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
