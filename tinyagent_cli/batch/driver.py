"""One batch: open the files, give the items to an executor, write the results, conclude."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from tinyagent.errors import ConfigurationError, RunLimitError, TinyAgentError
from tinyagent.executors import BatchItem, ItemResult, WorkerSpec
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config.files import LimitsTable
from tinyagent_cli.config.model_choice import parse_options
from tinyagent_cli.config.settings import Settings, load_settings
from tinyagent_cli.exit_codes import InputError, WriteError
from tinyagent_cli.plugins.discovery import used_distributions
from tinyagent_cli.run.garbage import collect_from_now_on
from tinyagent_cli.run.options import RunOptions
from tinyagent_cli.run.plan import read_system
from tinyagent_cli.run.process_exit import runner_closed_at_exit
from tinyagent_cli.run.prompt_input import StandardInput
from tinyagent_cli.sinks.record_file import refuse_inputs
from tinyagent_cli.terminal.output import take_stdin, take_stdout
from tinyagent_cli.terminal.signals import Interrupted

from .environment import worker_environment
from .executors import choose_executor
from .items import BadLine, Format, count_items, read_items
from .output import Before, ResultFile
from .progress import Counts, ProgressDisplay, summary
from .prompts import ItemTemplate, inline_template, stored_template
from .source import entries
from .worker import FACTORY, BatchWorker, Recipe, failure_of

__all__ = ["BatchOptions", "execute"]

FILES_FOR_EACH = 4
"""Open files of an item in flight: its connection, its record, and what a tool opens."""

SAME_FAILURES = 50
"""How many items fail in the same way, without one answer, before the batch ends."""

_AGAIN = "Correct the cause, and run the same command again."

MAX_SHOWN = 20
"""The most bad lines that are shown one by one."""


class BatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `tinyagent batch`; `run` has those of each run."""

    input: str
    output: str
    jobs: int
    form: Format | None
    lines: bool
    item_prompt: str | None
    id_column: str
    keep: tuple[str, ...]
    rpm: float | None
    tpm: float | None
    max_cost: float | None
    retry_failed: bool
    keep_going: bool
    records: str | None
    executor: str
    executor_options: tuple[str, ...]
    run: RunOptions

    @property
    def input_form(self) -> Format:
        """The format of the input, by an option or by the name of the file."""
        if self.lines:
            return "lines"
        if self.form is not None:
            return self.form
        suffix = os.path.splitext(self.input)[1].lower()  # noqa: PTH122
        tables: dict[str, Format] = {".csv": "csv", ".tsv": "tsv"}
        return tables.get(suffix, "jsonl")


def execute(app: AppContext, options: BatchOptions) -> int:
    """Run the batch. Return the exit code.

    Raises:
        TinyAgentError: The options or the settings cannot be used, or the batch was ended early.
    """
    stdin = take_stdin()
    take_stdout()
    settings = load_settings()
    executor = choose_executor(
        options.executor, parse_options(options.executor_options, "--executor-option"), settings
    )
    recipe = _recipe(app, options, settings)
    file = _open_input(options.input, stdin)
    refuse_inputs(options.output, [("the batch", file.fileno())])
    spec = WorkerSpec(
        factory=FACTORY,
        recipe=msgspec.to_builtins(recipe),
        concurrency=options.jobs,
        rpm=options.rpm,
        tpm=options.tpm,
        directory=str(Path.cwd()),
        shared=() if options.records is None else (str(Path(options.records).absolute()),),
    )
    plan = BatchWorker(app, recipe, spec).plan  # reports what is missing, before OUT is created
    limit = recipe.limits.get(plan.provider.name, LimitsTable()).concurrency
    spec = msgspec.structs.replace(
        spec, most_workers=limit or options.jobs, requirements=used_distributions()
    )
    if options.records is not None:
        _make_folder(options.records)
    _allow_files(options.jobs * FILES_FOR_EACH)
    results = ResultFile(options.output)
    try:
        environment = worker_environment(settings, plan.provider, plan.api_key)
        batch = _Batch(app, options, recipe.template, file, results, environment)
        collect_from_now_on()
        runner_closed_at_exit().run(batch.drive(executor.run(spec, batch.items(), batch)))
        try:
            results.remove_replaced()
        except WriteError as error:
            batch.stop(error)
    finally:
        results.close()
    return batch.conclude()


def _recipe(app: AppContext, options: BatchOptions, settings: Settings) -> Recipe:
    run = options.run
    template: ItemTemplate | None = None
    if options.item_prompt is not None and run.template is not None:
        raise InputError("--prompt and -p exclude each other: both are the prompt of all items.")
    if options.item_prompt is not None:
        template = inline_template(options.item_prompt, run.parameters)
    elif run.template is not None:
        template = stored_template(app, run.template, run.parameters)
    elif run.parameters:
        raise InputError(f"-P {run.parameters[0]} is for a variable of --prompt or -p, which is missing.")
    system = None if run.system is None else read_system(run.system, StandardInput(None, app.note))
    return Recipe(
        options=msgspec.structs.replace(run, system=None, parameters=()),
        template=template,
        system=system,
        keep=options.keep,
        records=options.records,
        limits=dict(settings.batch.limits),
    )


def _open_input(path: str, stdin: int | None) -> BinaryIO:
    if path != "-":
        try:
            return Path(path).open("rb")
        except OSError as error:
            raise InputError(f"Cannot read {path}: {error.strerror}.") from None
    if stdin is None:
        raise InputError("Cannot read standard input: it is closed.")
    return os.fdopen(stdin, "rb")


def _make_folder(path: str) -> None:
    try:
        Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--records: cannot create the folder {path}: {error.strerror}.") from None


def _allow_files(number: int) -> None:
    """Raise the limit of open files, if the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + 256
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Batch:
    """The items and their results. It is the `Job` of the executor."""

    def __init__(
        self,
        app: AppContext,
        options: BatchOptions,
        template: ItemTemplate | None,
        file: BinaryIO,
        results: ResultFile,
        environment: Mapping[str, str],
    ) -> None:
        self.draining: asyncio.Event = asyncio.Event()
        self.aborted: asyncio.Event = asyncio.Event()
        self.environment = environment
        self._app = app
        self._options = options
        self._template = template
        self._file = file
        self._results = results
        self._counts = Counts()
        self._display = ProgressDisplay(app, self._counts)
        self._cause: BaseException | None = None

    # ---- the job of the executor ---------------------------------------------------------------------------

    async def done(self, result: ItemResult) -> None:
        """Write a result, and end the batch if nothing more can be done."""
        try:
            self._results.write(result.id, result.line, ok=result.ok)
        except WriteError as error:
            self.stop(error, abort=True)
            return
        counts, limit = self._counts, self._options.max_cost
        counts.add(result)
        if result.stops:
            self.stop(ConfigurationError(result.message, hint=_AGAIN))
        elif counts.same_failures >= SAME_FAILURES and not self._options.keep_going:
            self.stop(
                TinyAgentError(
                    f"The first {counts.same_failures} items failed in the same way: {result.message}",
                    hint=f"{_AGAIN} --keep-going does all items in any case.",
                )
            )
        elif limit is not None and (counts.cost or 0.0) >= limit:
            self.stop(
                RunLimitError(
                    f"The batch reached its budget of ${limit:g} (--max-cost).",
                    limit="budget",
                    hint="Run the same command again to go on; the budget counts from zero then.",
                )
            )

    async def failed(self, item: BatchItem, error: Exception) -> None:
        """Write the result of an item that no worker can run."""
        await self.done(failure_of(item, self._options.keep, error))

    def note(self, text: str) -> None:
        """Show a message."""
        self._app.note(text)

    # ---- items ---------------------------------------------------------------------------------------------

    async def items(self) -> AsyncIterator[BatchItem]:
        """Yield the items that have no answer yet."""
        options = self._options
        reader = read_items(
            self._file,
            options.input_form,
            options.id_column,
            body_models=options.run.model is None,
            check_columns=self._check_columns,
        )
        try:
            async for entry in entries(self._file, reader, self.draining):
                if isinstance(entry, BadLine):
                    self._bad(entry)
                elif self._is_wanted(entry):
                    yield entry
        except InputError as error:
            self.stop(error)  # every executor finishes what is in flight

    def _check_columns(self, columns: list[str]) -> None:
        """Check that a table has the columns that the prompt and --keep need: all its rows have the same."""
        template, known = self._template, ", ".join(columns)
        if self._needs_prompt and "prompt" not in columns:
            raise InputError(
                "The table has no column 'prompt', and there is no --prompt.",
                hint=f"Its columns are {known}. Write a prompt: --prompt '… {{{{ {columns[-1]} }}}} …'",
            )
        unknown = [name for name in self._options.keep if name not in columns]
        if unknown:
            raise InputError(
                f"--keep {unknown[0]}: the table has the columns {known}.",
                hint="For several columns, repeat --keep.",
            )
        missing = [] if template is None else template.missing(columns)
        if missing and template is not None:
            raise InputError(
                f"The table has no column {missing[0]!r}, which {template.name} needs.",
                hint=f"Its columns are {known}. -P {missing[0]}=… is a value for all rows.",
            )

    @property
    def _needs_prompt(self) -> bool:
        return self._template is None or self._template.content.prompt is None

    def _is_wanted(self, item: BatchItem) -> bool:
        match self._results.before(item.id):
            case Before.REPEATED:
                self._bad(BadLine(item.line, f"an earlier line has the id {item.id!r}"))
                return False
            case Before.DONE:
                self._counts.skipped += 1
                return False
            case Before.NEW if self._options.retry_failed:
                self._counts.ignored += 1
                return False
        if self._template is not None:
            missing = self._template.missing_for(item)
            if missing:
                self._bad(BadLine(item.line, f"there is no value for {', '.join(missing)}"))
                return False
        if self._needs_prompt and not (item.prompt or item.files or item.history):
            self._bad(BadLine(item.line, "it has no prompt"))
            return False
        return True

    def _bad(self, line: BadLine) -> None:
        self._counts.failures["bad_line"] += 1
        shown = self._counts.failures["bad_line"]
        if shown <= MAX_SHOWN:
            self._app.warn(f"Line {line.line} is skipped: {line.reason}.")
        elif shown == MAX_SHOWN + 1:
            self._app.warn("More lines are skipped; the summary has their number.")

    # ---- the end -------------------------------------------------------------------------------------------

    async def drive(self, execution: Awaitable[None]) -> None:
        """Wait for the executor. A signal ends the batch."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) != signal.SIG_IGN:
                loop.add_signal_handler(signum, self._signalled, signum)
        if not self._app.quiet:
            self._counts.total = count_items(self._file, self._options.input_form)
        self._display.start()
        try:
            await execution
        finally:
            self._display.stop()

    def _signalled(self, signum: int) -> None:
        if signum != signal.SIGINT or self.draining.is_set():
            signal.signal(signum, signal.SIG_DFL)
            self.stop(Interrupted(signum), abort=True)
        else:
            self._app.note("Finishing what is in flight. Ctrl-C again ends it now.")
            self.stop(Interrupted(signum))

    def stop(self, cause: BaseException, *, abort: bool = False) -> None:
        """End the batch because of an error, which `conclude` raises. The first one counts."""
        self._cause = self._cause or cause
        self.draining.set()
        if abort:
            self.aborted.set()

    def conclude(self) -> int:
        """Show the summary. Return the exit code, or raise what ended the batch early."""
        if self._counts.is_empty and self._cause is None:
            self._app.note("The input has no items.")
        self._app.note(summary(self._counts))
        if self._cause is not None:
            raise self._cause
        return 1 if self._counts.failed else 0
