"""Events as JSON Lines: the format of `--jsonl`, session files, pipes, replays and test snapshots.

The encoding is UTF-8, with one JSON object per line, LF line ends and `type` as the first key. The reader
also accepts what other programs write: a byte order mark, UTF-16 and UTF-32 (see `text_files`), and CR LF.
A stream is a `session` line, `history` lines for the messages before the run, the events, and a
`result` line. Each body is written only once:

    message_start         role; an assistant's also timestamp, api, provider, model
    message_update        assistant_message_event; text_end and the like without their body
                          blocks: fields of a block that its events do not contain (a call's id and name)
    message_end           message; of a tool result only tool_call_id and timestamp, since its body is in
    tool_execution_end    result
    turn_end, agent_end   nothing
    compaction_end        summary, and the positions of the messages that stay

The writer and the reader have the same state, so the writer knows which bodies the reader can restore. Other
bodies, for example of events that are not a well-formed run, are written on the line itself: `message`,
`messages`, `tool_results`, and `envelope` with the fields of `partial` other than its content. If the event
itself has a `partial`, these fields are in `snapshot`. So `read(write(events))` returns equal events for any
input, and the size of a run is linear in its text.

A compaction replaces no line: a record has every message, and `messages` returns the conversation that is
left. A reader that ignores `compaction_end` gets the whole conversation.

A user's `message_start` is restored from its `message_end`, which is the next line. If another line follows,
the `message_start` is written again, with its `message` and the same `seq`.
"""

from ._jsonl.decoder import Decoder
from ._jsonl.encoder import Encoder, write
from ._jsonl.reader import messages, read, read_records
from ._jsonl.records import VERSION, ErrorRecord, HistoryRecord, Record, ResultRecord, SessionRecord
from ._jsonl.schema import schema

__all__ = [
    "VERSION",
    "Decoder",
    "Encoder",
    "ErrorRecord",
    "HistoryRecord",
    "Record",
    "ResultRecord",
    "SessionRecord",
    "messages",
    "read",
    "read_records",
    "schema",
    "write",
]
