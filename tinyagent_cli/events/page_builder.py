"""Turn the lines of recorded runs into the parts of a page."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

from msgspec import UNSET

from tinyagent._json import as_dict, as_list, as_str
from tinyagent._stream.message_checks import checked_message
from tinyagent.agent_types import (
    AgentEndEvent,
    AgentMessage,
    AgentStartEvent,
    AgentToolResult,
    CompactionEndEvent,
    CompactionStartEvent,
    JsonDict,
    MessageEndEvent,
    MessageStartEvent,
    MessageUpdateEvent,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
    ToolExecutionUpdateEvent,
    TurnStartEvent,
)
from tinyagent.errors import InvalidMessageError
from tinyagent.jsonl import HistoryRecord, Record, ResultRecord, SessionRecord
from tinyagent_cli.terminal.activity import call_line
from tinyagent_cli.terminal.amounts import counted
from tinyagent_cli.terminal.sanitise import one_line

from .page_blocks import BlockReader
from .page_compactions import Compactions
from .page_template import Template
from .page_text import argument_text, json_text, shown, value_text
from .page_values import (
    Argument,
    Block,
    Part,
    Row,
    RunRows,
    State,
    duration,
    known_cost,
    local_time,
    summary,
    time_of,
    tokens,
)
from .source import Entry
from .stats import Collector, model_text

__all__ = ["PageBuilder"]

MAX_PROBLEMS = 50
"""The most lines with a problem that are shown one by one."""
MAX_ARGUMENTS = 100
"""The most arguments of a call that are shown."""


class _Call:
    """A tool call that has not ended."""

    def __init__(self, part: str, name: str, arguments: JsonDict, *, earlier: bool) -> None:
        self.part = part
        self.name = name
        self.arguments = arguments
        self.raw = ""
        """The text of the arguments, if it is not a JSON object."""
        self.earlier = earlier
        self.started: int | None = None
        self.output: AgentToolResult | None = None
        self.has_started = False


class PageBuilder:
    """Turns lines into the parts of a page.

    Args:
        template: Renders them.
        live: Whether parts that will be replaced are rendered, too: running calls, and the reply so far.
    """

    def __init__(self, template: Template, *, live: bool = False) -> None:
        self._render = template.render
        self._live = live
        self._read = BlockReader()
        self._compactions = Compactions(template, self._read)
        self._collector = Collector()
        self._count = 0
        self._problems = 0
        self._runs: list[RunRows] = []
        self._run_is_open = False
        self._turn = 0
        self._asked: int | None = None
        """When the model was asked."""
        self._last: int | None = None
        """The last time in the record."""
        self._reply: str | None = None
        """The part of the reply that is streamed."""
        self._update: MessageUpdateEvent | None = None
        self._calls: dict[str, _Call] = {}
        self._ended: set[str] = set()
        """The calls of this turn that have ended; their result follows as a message, too."""
        self._changed: set[str] = set()
        """The running calls whose output has grown."""
        self._in_history = False
        self._error = ""
        """The error of the last reply, which the result of the run repeats."""
        self.has_records: bool = False

    def add(self, entry: Entry) -> Iterator[Part]:
        """Yield the parts that a line makes or changes."""
        self._collector.add(entry)
        for record in entry.records:
            self.has_records = True
            yield from self._record(record, entry.time)
        if entry.time is not None:
            self._last = entry.time

    def problem(self, text: str) -> Iterator[Part]:
        """Yield a note about a line that cannot be read."""
        self._problems += 1
        if self._problems <= MAX_PROBLEMS:
            yield self._note("problem", one_line(text, 500))

    def close(self) -> Iterator[Part]:
        """Yield the parts at the end of the lines."""
        yield from self._leave_run()
        if self._problems > MAX_PROBLEMS:
            yield self._note("problem", f"{self._problems - MAX_PROBLEMS} more lines cannot be read.")

    def changes(self) -> Iterator[Part]:
        """Yield the reply so far, and the running calls whose output has grown. For live pages."""
        if self._update is not None and self._reply is not None:
            yield self._partial(self._reply, self._update, is_final=False)
        for call_id in self._changed & self._calls.keys():
            yield self._open_call(self._calls[call_id])
        self._changed.clear()

    def aside(self) -> str:
        """Return the summary and the time line."""
        stats = copy.deepcopy(self._collector).finished()
        runs = [(run, *run.scaled()) for run in self._runs if run.rows]
        rows = summary(stats, is_live=self._live and self._run_is_open)
        tools = [(one_line(name, 60), tool) for name, tool in sorted(stats.tools.items())]
        return self._render("aside.html", rows=rows, runs=runs, tools=tools)

    def _next(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"

    def _note(self, kind: str, text: str) -> Part:
        part = self._next("note-")
        return Part(part, self._render("note.html", id=part, kind=kind, text=shown(text)))

    # ---- runs -------------------------------------------------------------------------------------

    def _record(self, record: Record, moment: int | None) -> Iterator[Part]:
        if self._in_history and not isinstance(record, HistoryRecord):
            self._in_history = False
            yield from self._end_calls("open")
        match record:
            case SessionRecord():
                yield from self._leave_run()
                yield self._header(record)
            case HistoryRecord(message=message):
                if not self._in_history:
                    self._in_history = True
                    yield self._note("earlier", "Earlier messages")
                yield from self._message(message, None)
            case ResultRecord():
                yield from self._compactions.leave()
                yield from self._end_calls("open")
                yield self._result(record)
                self._run_is_open = False
            case AgentStartEvent():
                yield from self._leave_run()
                yield self._start_run(moment)
            case TurnStartEvent():
                self._turn += 1
                self._asked = moment
            case MessageStartEvent(message=message) if message.get("role") == "assistant":
                self._asked = moment if self._asked is None else self._asked
                self._update = None
                self._reply = self._next("message-")
                yield Part(self._reply, "", is_final=False)
            case MessageUpdateEvent():
                self._update = record
            case MessageEndEvent(message=message):
                yield from self._message(message, moment)
            case ToolExecutionStartEvent(tool_call_id=call_id, tool_name=name, args=args):
                yield from self._start_call(call_id, name, args, moment)
            case ToolExecutionUpdateEvent(tool_call_id=call_id, partial_result=result):
                if call_id in self._calls:
                    self._calls[call_id].output = result
                    self._changed.add(call_id)
            case ToolExecutionEndEvent(tool_call_id=call_id, tool_name=name, result=result):
                self._ended.add(call_id)
                call = self._calls.pop(call_id, None) or self._call(name, {})
                content, details = as_list(result.content), result.details
                state: State = "failed" if record.is_error else "ok"
                yield self._end_call(call, state, content, details, moment)
            case CompactionStartEvent():
                yield from self._compactions.leave()
                yield self._compactions.start(record, self._next("compaction-"), moment)
            case CompactionEndEvent():
                yield self._end_compaction(record, moment)
            case AgentEndEvent(limit=limit):
                yield from self._end_calls("skipped")
                if limit is not None:
                    yield self._note("warning", f"The run ended at a limit: {one_line(str(limit))}.")
            case _:
                pass

    def _header(self, record: SessionRecord) -> Part:
        model = record.model or {}
        facts = [
            ("Session", record.id),
            ("Created", local_time(record.created)),
            ("Model", model_text(model.get("provider"), model.get("id"))),
            ("Thinking", "" if record.thinking_level == "off" else record.thinking_level),
            ("Folder", as_str(record.cwd)),
            ("Copy of", as_str(record.parent)),
            ("Tools", ", ".join(record.tools)),
            ("tinyagent", record.tinyagent),
        ]
        part = self._next("session-")
        html = self._render(
            "session.html",
            id=part,
            facts=[(name, one_line(value, 1000)) for name, value in facts if value],
            prompt=shown(record.system_prompt),
        )
        return Part(part, html)

    def _start_run(self, moment: int | None) -> Part:
        number = len(self._runs) + 1
        part = self._next("run-")
        self._runs.append(RunRows(f"Run {number}", part))
        self._run_is_open, self._turn, self._asked = True, 0, None
        return Part(part, self._render("run.html", id=part, number=number, moment=moment))

    def _leave_run(self) -> Iterator[Part]:
        """End what the lines have left open, before another run or the end."""
        if self._update is not None and self._reply is not None:
            yield self._partial(self._reply, self._update, is_final=True)
        elif self._reply is not None:
            yield Part(self._reply, "")
        self._update = self._reply = None
        yield from self._compactions.leave()
        yield from self._end_calls("open")
        if self._run_is_open:
            self._run_is_open = False
            yield self._note("warning", "The run has no result: it was interrupted, or it is still running.")

    def _result(self, record: ResultRecord) -> Part:
        part = self._next("result-")
        error = record.error
        is_new = error is not None and error.message != self._error
        facts = [
            counted(record.turns, "turn"),
            tokens(record.usage or {}),
            known_cost(record.usage or {}),
            duration(record.duration_ms),
        ]
        html = self._render(
            "result.html",
            id=part,
            ok=record.ok,
            stop_reason=one_line(record.stop_reason or ""),
            exit_code=record.exit_code,
            facts=[fact for fact in facts if fact],
            error=shown(error.message) if error and is_new else None,
            hint=error and error.hint and shown(error.hint),
            value=None if record.value is UNSET else json_text(record.value),
        )
        return Part(part, html)

    def _end_compaction(self, end: CompactionEndEvent, moment: int | None) -> Part:
        started = self._compactions.started
        part = self._compactions.end(end, lambda: self._next("compaction-"))
        if self._run_is_open:
            state: State = "failed" if end.summary is None else "ok"
            row = Row("Compaction", "model", part.id, state, tokens(as_dict(end.usage)), started, moment)
            self._runs[-1].add(row)
            self._asked = moment
        return part

    # ---- messages ---------------------------------------------------------------------------------

    def _message(self, raw: AgentMessage, moment: int | None) -> Iterator[Part]:
        """Yield a message. Its content is untrusted, so it is checked before it is read."""
        part = self._reply if raw.get("role") == "assistant" and not self._in_history else None
        if part is not None:
            self._reply = self._update = None
        try:
            message = checked_message(raw)
        except InvalidMessageError as error:
            block = Block("json", json_text(raw), title=f"This message cannot be read: {error}")
            yield self._article(part or self._next("message-"), "other", "Message", [block])
            return
        fields = as_dict(message)
        role = as_str(fields.get("role"))
        if role == "tool_result":
            yield from self._result_message(fields)
        elif role == "user" and fields.get("summary") is True:
            blocks = self._read.summary(fields)
            title = "Summary of the earlier messages"
            yield self._article(self._next("message-"), "other", title, blocks, time_of(fields, moment))
        elif role == "user":
            yield self._article(
                self._next("message-"), "user", "User", self._read.blocks(fields), time_of(fields, moment)
            )
        elif role == "assistant":
            yield from self._reply_message(part or self._next("message-"), fields, moment)
        else:
            rest = {key: value for key, value in fields.items() if key != "role"}
            block = Block("json", json_text(rest))
            yield self._article(self._next("message-"), "other", one_line(role, 60), [block])

    def _reply_message(self, part: str, fields: dict[str, object], moment: int | None) -> Iterator[Part]:
        name = model_text(fields.get("provider"), fields.get("model"))
        usage = as_dict(fields.get("usage"))
        reason = as_str(fields.get("stop_reason"))
        blocks = self._read.blocks(fields)
        self._error = as_str(fields.get("error_message"))
        facts = [
            tokens(usage),
            known_cost(usage),
            "" if reason in ("stop", "tool_use", "error", "") else one_line(reason),
            "refused" if fields.get("refusal") is True else "",
        ]
        html = ""
        if blocks:
            article = self._article(
                part, "assistant", name or "Assistant", blocks, time_of(fields, moment), facts
            )
            html = article.html
        yield Part(part, html)
        self._ended.clear()
        first = ""
        for block in as_list(fields.get("content")):
            call = as_dict(block)
            if call.get("type") == "tool_call":
                call_id = as_str(call.get("id"))
                if call_id in self._calls:
                    yield from self._end_calls("open")
                added = self._call(as_str(call.get("name")), as_dict(call.get("arguments")))
                added.raw = as_str(call.get("partial_json"))
                self._calls[call_id] = added
                first = first or added.part
                yield self._open_call(added)
        if self._runs and not self._in_history:
            failed = reason in ("error", "aborted")
            row = Row(
                f"Turn {self._turn}", "model", part if html else first or part,
                "failed" if failed else "ok", facts[0], self._asked, moment,
            )  # fmt: skip
            self._runs[-1].add(row)
        self._asked = None

    def _result_message(self, fields: dict[str, object]) -> Iterator[Part]:
        """Yield the result of a call that was not recorded as it ran."""
        call_id = as_str(fields.get("tool_call_id"))
        call = self._calls.pop(call_id, None)
        if call is None and call_id in self._ended:
            return
        self._ended.add(call_id)
        call = call or self._call(as_str(fields.get("tool_name")), {})
        state: State = "failed" if fields.get("is_error") is True else "ok"
        yield self._end_call(call, state, as_list(fields.get("content")), fields.get("details"), None)

    def _article(
        self,
        part: str,
        role: str,
        title: str,
        blocks: list[Block],
        moment: int | None = None,
        facts: Iterable[str] = (),
        *,
        is_final: bool = True,
    ) -> Part:
        html = self._render(
            "message.html",
            id=part,
            role=role,
            title=title,
            content=blocks,
            moment=moment,
            facts=[fact for fact in facts if fact],
            earlier=self._in_history,
            preview=next((one_line(block.text.text, 100) for block in blocks if block.text.text), ""),
            is_final=is_final,
        )
        return Part(part, html, is_final)

    def _partial(self, part: str, update: MessageUpdateEvent, *, is_final: bool) -> Part:
        """Return the reply so far."""
        fields = as_dict(update.message)
        blocks = self._read.blocks(fields, is_final=is_final)
        for block in as_list(fields.get("content")):
            call = as_dict(block)
            if call.get("type") == "tool_call":
                text = as_str(call.get("partial_json"))
                blocks.append(
                    Block("json", argument_text(text), title=one_line(as_str(call.get("name")), 60))
                )
        name = model_text(fields.get("provider"), fields.get("model")) or "Assistant"
        facts = ("not complete",) if is_final else ()
        return self._article(part, "assistant", name, blocks, None, facts, is_final=is_final)

    # ---- tool calls -------------------------------------------------------------------------------

    def _call(self, name: str, arguments: JsonDict) -> _Call:
        return _Call(self._next("call-"), name, arguments, earlier=self._in_history)

    def _start_call(self, call_id: str, name: str, args: JsonDict, moment: int | None) -> Iterator[Part]:
        call = self._calls.get(call_id)
        if call is None:
            call = self._calls[call_id] = self._call(name, args)
        call.name, call.arguments = name, args
        call.started, call.has_started = moment, True
        yield self._open_call(call)

    def _open_call(self, call: _Call) -> Part:
        if not self._live:
            return Part(call.part, "", is_final=False)
        content = as_list(call.output.content) if call.output is not None else []
        return Part(call.part, self._call_html(call, "running", content, None, ""), is_final=False)

    def _end_call(
        self, call: _Call, state: State, content: list[object], details: object, moment: int | None
    ) -> Part:
        taken = None
        if moment is not None and call.started is not None:
            taken = max(moment - call.started, 0)
        took = "" if taken is None else duration(taken)
        if self._runs and not call.earlier:
            row = Row(one_line(call.name, 60), "tool", call.part, state, took, call.started, moment)
            self._runs[-1].add(row)
        return Part(call.part, self._call_html(call, state, content, details, took))

    def _end_calls(self, state: State) -> Iterator[Part]:
        """End the calls without a result. A call that has started is `open` in any case."""
        for call in self._calls.values():
            yield self._end_call(call, "open" if call.has_started else state, [], None, None)
        self._calls.clear()
        self._changed.clear()

    def _call_html(self, call: _Call, state: State, content: list[object], details: object, took: str) -> str:
        names = list(call.arguments)[:MAX_ARGUMENTS]
        arguments = [Argument(one_line(name), value_text(call.arguments[name])) for name in names]
        if call.raw:
            arguments.append(Argument("(not a JSON object)", argument_text(call.raw)))
        line = call_line("", {name: call.arguments[name] for name in names})
        return self._render(
            "call.html",
            id=call.part,
            name=one_line(call.name, 100),
            line=one_line(line or call.raw),
            state=state,
            took=took,
            arguments=arguments,
            omitted=len(call.arguments) - len(names),
            content=self._read.blocks({"content": content}),
            details=json_text(details) if details else None,
            earlier=call.earlier,
        )
