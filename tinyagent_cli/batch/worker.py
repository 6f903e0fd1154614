"""Run items with one warm set-up: settings, plugins and tools are loaded once. Every executor uses this."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import quote

import msgspec

from tinyagent import _json
from tinyagent._answer_form import json_form
from tinyagent._stream.message_checks import checked_messages, is_sent
from tinyagent._stream.model import HttpModel
from tinyagent.agent_types import AgentMessage, JsonDict, Model, Provider, UserMessage
from tinyagent.errors import ConfigurationError, TinyAgentError
from tinyagent.executors import BatchItem, ItemResult, WorkerSpec
from tinyagent.request_limits import ProviderLimits, RequestLimits
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config.files import LimitsTable
from tinyagent_cli.exit_codes import EXIT_CODES, InputError, describe, plugin_exit
from tinyagent_cli.run.agent import make_agent, make_guards, prompt, time_limit
from tinyagent_cli.run.approvals import Asked
from tinyagent_cli.run.lifetime import Lifetime
from tinyagent_cli.run.model import LoadedModel
from tinyagent_cli.run.options import RunOptions
from tinyagent_cli.run.outcome import add_cost, in_terms_of_options, missing_answer
from tinyagent_cli.run.plan import Plan, prepare
from tinyagent_cli.run.progress import Progress
from tinyagent_cli.run.prompt_input import StandardInput, build_prompt
from tinyagent_cli.run.record_lines import result
from tinyagent_cli.run.records import Records
from tinyagent_cli.run.schema_argument import WantedAnswer
from tinyagent_cli.sinks.plugin import PluginSinks
from tinyagent_cli.terminal.signals import Interrupted

from .prompts import ItemTemplate, read_item_files

if TYPE_CHECKING:
    from tinyagent_cli.sinks.jsonl import JsonlSink

__all__ = ["FACTORY", "BatchWorker", "Recipe", "failure_of", "make_worker", "provider_limits"]

FACTORY = f"{__name__}:make_worker"
"""The factory of all specs of this command."""

CHAT_APIS = ("openai-completions", "openrouter")
"""The APIs whose requests have the fields of chat/completions."""
NOT_SET_UP = EXIT_CODES[ConfigurationError]
LONGEST_NAME = 150
"""The longest name of a record, without the digest that a longer id gets; file systems allow 255 bytes."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker needs to know.

    Attributes:
        options: The options of the runs.
        template: The template of the prompts.
        system: The system prompt of `-s`, which is read.
        keep: The variables that the result line repeats.
        records: The folder for the records of all runs; None for no records.
        limits: The limits of single providers, from the configuration.
    """

    options: RunOptions
    template: ItemTemplate | None = None
    system: str | None = None
    keep: tuple[str, ...] = ()
    records: str | None = None
    limits: dict[str, LimitsTable] = {}


def provider_limits(
    spec: WorkerSpec, limits: Mapping[str, LimitsTable]
) -> tuple[ProviderLimits, dict[str, ProviderLimits]]:
    """Return the limits of a worker: of each provider, and of single providers by name.

    Of two limits the lower one applies. The sum of all workers' limits is the limit of the batch. A provider
    that allows fewer requests at a time than there are workers is left out: no item can use it.

    Args:
        spec: The spec of the worker, which has the limits of the options.
        limits: The limits of the configuration.
    """

    def part(whole: ProviderLimits) -> ProviderLimits:
        return whole.divide(spec.parts)[spec.part]

    return part(ProviderLimits(spec.concurrency, spec.rpm, spec.tpm)), {
        name: part(
            ProviderLimits(
                min(spec.concurrency, table.concurrency or spec.concurrency),
                _lower(spec.rpm, table.rpm),
                _lower(spec.tpm, table.tpm),
            )
        )
        for name, table in limits.items()
        if table.concurrency is None or table.concurrency >= spec.parts
    }


def _lower(option: float | None, limit: float | None) -> float | None:
    return min((value for value in (option, limit) if value is not None), default=None)


class _Conversation(TypedDict):
    """The history and the prompt, as fields of a plan."""

    history: list[AgentMessage]
    message: UserMessage


def make_worker(spec: WorkerSpec) -> BatchWorker:
    """Return the worker of a spec. The errors are those of `prepare`."""
    app = AppContext(())
    app.quiet = True  # the command itself has shown the notes
    return BatchWorker(app, msgspec.convert(spec.recipe, Recipe), spec)


class BatchWorker:
    """Runs items, any number at a time.

    Args:
        app: Shows notes and warnings.
        recipe: What to run.
        spec: The spec, with the limits of the requests to each provider, which all items share.

    Attributes:
        plan: The plan, without a prompt.
    """

    def __init__(self, app: AppContext, recipe: Recipe, spec: WorkerSpec) -> None:
        self._app = app
        self._recipe = recipe
        stdin = StandardInput(None, app.note)
        self.plan: Plan = prepare(app, recipe.options, stdin, Lifetime(), prompts_follow=True)
        limits, of_providers = provider_limits(spec, recipe.limits)
        self._workers = spec.parts
        self._limits = RequestLimits(limits, providers=of_providers)
        self._provider = self._limited(self.plan.provider)
        self._models: dict[str, LoadedModel] = {}

    async def aclose(self) -> None:
        """Do nothing: the event loop closes the connections."""

    async def run(self, item: BatchItem) -> ItemResult:
        """Run an item. A failure is a result, too."""
        progress = Progress()
        error: BaseException | None
        try:
            plan = self._plan_of(item)
            error = await self._record(item, plan, progress)
        except (SystemExit, KeyboardInterrupt) as exited:
            error = plugin_exit(exited)
        except Exception as failed:  # noqa: BLE001 - it is the result of this item
            error = failed
        return _result(item, self._recipe.keep, progress, error)

    def _plan_of(self, item: BatchItem) -> Plan:
        """Return the plan of an item.

        Raises:
            TinyAgentError: The item is invalid.
        """
        plan, template = self.plan, self._recipe.template
        prompt, system = item.prompt, None
        if template is not None:
            prompt, system = template.fill_in(item)
        history = checked_messages(list(item.history), "history: ") if item.history else plan.history
        given = next((text for text in (item.system, self._recipe.system, system) if text is not None), None)
        if given is not None:
            given = given if plan.context is None else plan.context.added_to(given)
        provider, model, key = self._provider, plan.model, plan.api_key
        if item.model is not None:
            provider, model, key = self._load_model(item.model)
        return msgspec.structs.replace(
            plan,
            provider=provider,
            model=_with_fields(model, _json.as_dict(item.settings.get("extra_body"))),
            api_key=key,
            system=plan.system if given is None else given,
            **_conversation(history, prompt, item),
            answer=_answer(_json.as_dict(item.settings.get("schema"))) or plan.answer,
            temperature=item.settings.get("temperature", plan.temperature),
            max_tokens=item.settings.get("max_tokens", plan.max_tokens),
        )

    def _load_model(self, name: str) -> LoadedModel:
        if name not in self._models:
            loaded = self.plan.load_model(name)
            self._check_share(loaded.provider.name)
            self._models[name] = loaded._replace(provider=self._limited(loaded.provider))
        return self._models[name]

    def _check_share(self, provider: str) -> None:
        """Refuse a provider that allows fewer requests at a time than there are workers."""
        most = self._recipe.limits.get(provider, LimitsTable()).concurrency
        if most is not None and most < self._workers:
            raise InputError(
                f"{self._workers} workers cannot share the limit of {provider}, "
                f"batch.limits.{provider}.concurrency = {most}.",
                hint=f"Use fewer workers, or run the items of {provider} alone, with -m {provider}/….",
            )

    def _limited(self, provider: Provider) -> Provider:
        return dataclasses.replace(provider, stream_fn=self._limits.wrap(provider.stream_fn))

    async def _record(self, item: BatchItem, plan: Plan, progress: Progress) -> BaseException | None:
        """Run the agent with the record of the item. Return the error of the run."""
        if self._recipe.records is None:
            return await self._drive(plan, progress, ())
        records = Records(None, progress)
        records.open_file(record_path(self._recipe.records, item.id), wait=False)
        try:
            records.begin(plan)
            error = await self._drive(plan, progress, records.sinks)
        except BaseException as failed:
            cancelled = isinstance(failed, asyncio.CancelledError)
            records.end(Interrupted(signal.SIGINT) if cancelled else failed)
            raise
        return records.end(error)

    async def _drive(
        self, plan: Plan, progress: Progress, sinks: Sequence[JsonlSink]
    ) -> BaseException | None:
        """Run the agent of an item. Return the error of the run."""
        assert plan.message is not None
        guards = make_guards(self._app, plan, ask=_refuse)
        agent = make_agent(plan, guards, on_retry=self._app.detail, on_note=self._app.detail)
        late: list[BaseException] = []

        def stop(error: BaseException) -> None:
            late.append(error)
            agent.abort()

        failure: TinyAgentError | None = None
        try:
            with time_limit(plan.timeout, stop), PluginSinks(plan.sinks, agent, self._app.warn):
                for sink in sinks:
                    agent.subscribe(sink)
                agent.subscribe(progress)
                await prompt(agent, plan.message, plan.answer, progress)
        except TinyAgentError as error:
            failure = error
        add_cost(plan, progress)
        refused = bool(guards.refused)
        if failure is None:
            failure = missing_answer(plan, progress, tools_refused=refused)
        else:
            failure = in_terms_of_options(failure, plan, tools_refused=refused)
        return late[0] if late else failure


def failure_of(item: BatchItem, keep: Sequence[str], error: Exception) -> ItemResult:
    """Return the result of an item that did not run.

    Args:
        item: The item.
        keep: The variables that the result line repeats.
        error: Why it did not run.
    """
    return _result(item, keep, Progress(), error)


def _result(
    item: BatchItem, keep: Sequence[str], progress: Progress, error: BaseException | None
) -> ItemResult:
    seconds = progress.seconds
    fields = result(progress, error, None, seconds)
    own: dict[str, object] = {"type": "result", "id": item.id, "line": item.line}
    if keep:
        texts = {"id": item.id, "prompt": item.prompt, "system": item.system, "model": item.model}
        fields_of_item = {**texts, **item.variables}
        own["variables"] = {name: fields_of_item.get(name) for name in keep}
    usage = progress.usage or {}
    failure = None if error is None else describe(error)
    return ItemResult(
        id=item.id,
        line=_json.encode_lossy({**own, **fields}) + b"\n",
        ok=failure is None,
        kind=None if failure is None else failure.kind,
        message="" if failure is None else failure.message,
        stops=failure is not None and failure.exit_code == NOT_SET_UP and item.model is None,
        input_tokens=usage.get("input", 0),
        output_tokens=usage.get("output", 0),
        cost=usage.get("cost"),
        seconds=seconds,
    )


def _conversation(history: list[AgentMessage], prompt: str | None, item: BatchItem) -> _Conversation:
    """Return the history and the prompt. Without a prompt of its own, the last message is the prompt."""
    last = history[-1] if history else None
    if prompt is None and not item.files and is_sent(last) and last["role"] == "user":
        return {"history": history[:-1], "message": last}
    return {"history": history, "message": build_prompt(prompt, read_item_files(item.files), None)}


def _answer(schema: JsonDict) -> WantedAnswer | None:
    """Return the answer that an item asks for; None if it asks for none."""
    if not schema:
        return None
    try:
        return _answer_of(_json.encode(schema))
    except (TypeError, ConfigurationError) as error:
        raise InputError(f"The schema of the item cannot be used: {error}") from None


@lru_cache(maxsize=64)
def _answer_of(schema: bytes) -> WantedAnswer:
    """Items usually have the same schema."""
    return WantedAnswer(json_form(_json.decode(schema)), many=False)


async def _refuse(asked: Asked) -> str | None:
    """Answer no question about a tool: nothing shows which of many items asks."""
    return None


def _with_fields(model: Model, body: JsonDict) -> Model:
    """Return a model that adds these fields to the body of each request."""
    if not body:
        return model
    if not isinstance(model, HttpModel) or model.api not in CHAT_APIS:
        raise InputError(
            f"{model.provider}/{model.id} accepts no fields of chat/completions: {', '.join(body)}.",
            hint="Remove them, or choose a model with this API.",
        )
    return dataclasses.replace(model, extra_body={**model.extra_body, **body})


def record_path(folder: str, item_id: str) -> str:
    """Return the file for the record of an item. Two ids never have the same file."""
    name = quote(item_id, safe=" +=@,")
    if len(name) > LONGEST_NAME or name != name.strip(" "):
        name = f"{name[:LONGEST_NAME].strip(' ')}%{sha256(item_id.encode()).hexdigest()}"
    return str(Path(folder, f"{name}.jsonl"))
