"""The records of a run. They are complete however the run ends.

The encoder of JSON lines is imported on first use: its types are slow to create. Plain text and sessions do
not need them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tinyagent_cli.exit_codes import WriteError
from tinyagent_cli.terminal.output import Output, take_stdout

from .progress import Progress

if TYPE_CHECKING:
    from tinyagent_cli.sessions.writer import SessionWriter
    from tinyagent_cli.sinks.jsonl import JsonlSink
    from tinyagent_cli.sinks.record_file import RecordFile

    from .lifetime import Lifetime
    from .plan import Plan

__all__ = ["Records", "record_failure"]


class Records:
    """The JSON lines of a run: in its session, on standard output, and in the file of `-o`.

    `--json` writes only the result line to standard output.

    Each ends with a result line, however the block is left. If the main thread is stuck, `lifetime` ends them
    from another thread.

    Args:
        stdout: Standard output, if the JSON lines go there.
        only_result: Whether standard output gets only the result line.
        progress: The state of the run, for the result line.
        lifetime: The signals and time limit of the command.
    """

    def __init__(
        self,
        stdout: Output | None,
        progress: Progress,
        lifetime: Lifetime | None = None,
        *,
        only_result: bool = False,
    ) -> None:
        self.sinks: list[JsonlSink] = []
        self._progress = progress
        self._path = ""
        self._option = "-o"
        self._for_tests = False
        self._file: RecordFile | None = None
        self._session: SessionWriter | None = None
        self._started = False
        self._ended = threading.Lock()
        self._seconds = 0.0
        if stdout is not None:
            self._add(stdout, only_result=only_result)
        if lifetime is not None:
            lifetime.at_last_resort(self.end)

    def _add(self, output: Output, *, only_result: bool = False) -> None:
        from tinyagent_cli.sinks.jsonl import JsonlSink, ResultSink

        self.sinks.append(ResultSink(output) if only_result else JsonlSink(output))

    def open_file(
        self,
        path: str,
        inputs: Iterable[tuple[str, str | int | None]] = (),
        stdout: Output | None = None,
        *,
        wait: bool = True,
        for_tests: bool = False,
    ) -> None:
        """Also write to this file. It must not be one of `inputs` or standard output.

        A FIFO is opened when it has a reader. Without `wait`, a FIFO without a reader is refused. `for_tests`
        adds what a replay compares with its requests, as for `--record`.
        """
        from tinyagent_cli.sinks.record_file import RecordFile, refuse_inputs, refuse_standard_output

        self._for_tests, self._option = for_tests, "--record" if for_tests else "-o"
        refuse_standard_output(path, stdout.fd if stdout is not None else None, self._option)
        refuse_inputs(path, inputs, self._option)
        self._path, self._file = path, RecordFile(path, wait=wait)
        self._add(self._file.output)

    def begin(self, plan: Plan) -> None:
        """Write the header. From now on the file replaces an older record."""
        self._session = plan.session
        if self._file is not None:
            from tinyagent_cli.sinks.record_file import refuse_inputs

            refuse_inputs(self._path, plan.inputs, self._option)
            self._file.start()
        self._started = True
        if self._session is not None or self.sinks:
            from .record_lines import header

            first = header(plan)
            if self._session is not None:
                self._session.begin(first, plan.history)
            if self._for_tests:
                from tinyagent.replay_provider import request_fingerprints

                schema = None if plan.answer is None else plan.answer.form.schema
                first = {**first, "fingerprints": request_fingerprints(plan.tools, schema)}
            for sink in self.sinks:
                sink.begin(first, plan.history)

    def end(self, error: BaseException | None) -> BaseException | None:
        """Write the result lines, once. Return `error`, or the error of writing."""
        if not self._ended.acquire(blocking=False):
            return error
        self._seconds = self._progress.seconds  # the same in all records
        file = self._file
        keep = file is None or self._started or not file.has_older_record
        self._end_session(
            error or next((sink.output.error for sink in self.sinks if sink.output.error), None)
        )
        for sink in self.sinks:
            if keep or file is None or sink.output is not file.output:
                self._end(sink, error or sink.output.error)
                error = error or sink.output.error
        if file is not None:
            try:
                file.finish(keep)
            except WriteError as failed:
                error = failed if error is None or error is file.output.error else error
        return error

    def _end(self, sink: JsonlSink, error: BaseException | None) -> None:
        from .record_lines import header, result

        if not sink.started:
            sink.begin(header(None))
        sink.end(result(self._progress, error, self._session_id, self._seconds))

    def _end_session(self, error: BaseException | None) -> None:
        session = self._session
        if session is not None:
            from .record_lines import result

            line = result(self._progress, error, session.id, self._seconds) if session.started else None
            session.end(line)

    @property
    def _session_id(self) -> str | None:
        """The id of the session that has this run; None if the run is not saved."""
        return self._session.id if self._session is not None and self._session.started else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = self.end(error)
        if failed is not None and failed is not error:
            raise failed


def record_failure(formats: Sequence[str], path: str | None, error: BaseException) -> None:
    """Write the record of a run with invalid options. Errors in writing it are ignored.

    Args:
        formats: What standard output gets: `jsonl`, `json` or neither.
        path: The file of `-o`.
        error: The error that ended the run.
    """
    try:
        stdout = take_stdout() if formats else None
        with Records(stdout, Progress(), only_result="jsonl" not in formats) as records:
            if path is not None:
                records.open_file(path, wait=False)
            raise error
    except Exception:  # noqa: BLE001 - the caller raises `error`
        pass
