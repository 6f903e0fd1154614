"""`Agent.prompt_as`: the value of an answer, its validation and its one repair."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.documents import blocks
from tinyagent import Agent, AgentOptions, AgentTool, AgentToolResult
from tinyagent._answer_form import answer_form, json_form
from tinyagent._stream.response_schema import ANTHROPIC, OPENAI, strict_schema
from tinyagent.errors import (
    ConfigurationError,
    ContentFilterError,
    EmptyReplyError,
    InvalidAnswerError,
    OutputTruncatedError,
    ProviderError,
    RunAbortedError,
    RunLimitError,
)
from tinyagent.testing import Reply, ScriptedProvider, assistant, call, check_grammar


class Person(msgspec.Struct):
    """A person."""

    name: str
    age: int
    tags: list[str] = []
    nickname: str | None = None


@dataclass
class Point:
    x: int
    y: float = 0.5


class Town(TypedDict):
    name: str
    inhabitants: int


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Node(msgspec.Struct):
    value: int
    children: list[Node] = []


class Cat(msgspec.Struct, tag="cat"):
    lives: int


class Dog(msgspec.Struct, tag="dog"):
    name: str


class Account(pydantic.BaseModel):
    owner: str
    balance: Annotated[int, pydantic.Field(ge=0)] = 0


def agent(provider: ScriptedProvider, **options: Any) -> Agent:
    return Agent(AgentOptions(stream_fn=provider, initial_state={"model": provider.model}, **options))


async def answer(form: Any, *replies: Any) -> Any:
    """The value of a run whose model gives these replies."""
    with ScriptedProvider(*replies) as provider:
        return await agent(provider).prompt_as(form, "Hi")


# ---- values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "text", "value"),
    [
        (Person, '{"name": "Ada", "age": 36}', Person("Ada", 36)),
        (Person, '{"name": "Ada", "age": 36.0, "tags": ["a"]}', Person("Ada", 36, ["a"])),
        (Point, '{"x": 1, "y": 2}', Point(1, 2.0)),
        (Town, '{"name": "Ulm", "inhabitants": 1}', {"name": "Ulm", "inhabitants": 1}),
        (Colour, '{"value": "red"}', Colour.RED),
        (int, '{"value": 5}', 5),
        (int, "5", 5),
        (str, '{"value": "a"}', "a"),
        (bool, '{"value": true}', True),
        (list[int], '{"items": [1, 2]}', [1, 2]),
        (list[int], "[1, 2]", [1, 2]),
        (list[Person], '{"items": [{"name": "a", "age": 1}]}', [Person("a", 1)]),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (dict[int, int], '{"1": 1}', {1: 1}),
        (int | None, '{"value": null}', None),
        (Literal["a", "b"], '{"value": "b"}', "b"),
        (date, '{"value": "2020-02-29"}', date(2020, 2, 29)),
        (Cat | Dog, '{"value": {"type": "dog", "name": "Rex"}}', Dog("Rex")),
        (Node, '{"value": 1, "children": [{"value": 2}]}', Node(1, [Node(2)])),
        (Annotated[int, msgspec.Meta(ge=3)], '{"value": 3}', 3),
        (Account, '{"owner": "a", "balance": 2}', Account(owner="a", balance=2)),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"a": 5.0}', {"a": 5}),
        ({"properties": {"a": {}}}, '{"a": null}', {"a": None}),
        ({"type": "array", "items": {"type": "string"}}, '{"items": ["x"]}', ["x"]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, '{"value": null}', None),
        ({"enum": [1, "a"]}, '{"value": "a"}', "a"),
        ({"$ref": "#/definitions/a", "definitions": {"a": {"type": "object"}}}, '{"x": 1}', {"x": 1}),
    ],
    ids=str,
)
async def test_a_value_of_every_form(form: Any, text: str, value: Any) -> None:
    """The answer is converted to the type; wrapped values are unwrapped, with and without their wrapper."""
    got = await answer(form, text)
    assert (value, type(value)) == (got, type(got))


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"x": 1}\n```',
        '```\n{"x": 1}\n```\n',
        'Here it is:\n\n```json\n{"x": 1}\n```\nAnything else?',
        'First a draft:\n```json\n{"x": "no"}\n```\nBetter:\n```json\n{"x": 1}\n```',
        'The point is {"x": 1}.',
        ' \n{"x": 1}\n ',
        '```json\n{"x": 1}',
    ],
)
async def test_json_in_markdown_is_found(text: str) -> None:
    """No repair is needed for an answer with a fence or with other text."""
    assert Point(1) == await answer(Point, text)


async def test_the_last_text_is_the_answer() -> None:
    """Text blocks before the answer are ignored."""
    assert Point(2) == await answer(Point, Reply("I think of [1].", '{"x": 2}'))


@pytest.mark.parametrize(
    ("form", "sent", "value"),
    [
        (Person, {"name": "a", "age": 1, "tags": None, "nickname": None}, Person("a", 1)),
        (Node, {"value": 1, "children": [{"value": 2, "children": None}]}, Node(1, [Node(2)])),
        (Point, {"x": 1, "y": None}, Point(1)),
    ],
)
async def test_null_stands_for_an_optional_property(form: Any, sent: Any, value: Any) -> None:
    """Strict schemas make models write null for what they leave out, also inside lists and references."""
    assert value == await answer(form, json.dumps(sent))


async def test_other_nulls_stay() -> None:
    """A null that the schema accepts is not removed along with those that it does not accept."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": ["integer", "null"]}, "b": {"type": "integer"}, "c": {}},
        "required": ["a"],
    }
    assert {"a": None} == await answer(schema, '{"a": null, "b": null}')


async def test_the_example_of_the_documentation() -> None:
    """The program in docs/structured.md runs as it stands there."""
    page = Path(__file__).parent.parent / "docs" / "structured.md"
    example = [block.text for block in blocks(page) if block.language == "python"][-1]
    names: dict[str, Any] = {"__name__": "example"}
    exec(example, names)
    text = '{"items": [{"name": "Ada", "age": 36}, {"name": "Bob", "age": null}]}'
    with ScriptedProvider(text) as names["stream_openrouter"]:
        assert [("Ada", 36), ("Bob", None)] == [(one.name, one.age) for one in await names["main"]()]


# ---- the repair ---------------------------------------------------------------------------------------


async def test_an_answer_that_does_not_fit_is_repaired_once() -> None:
    """The model gets the fault and the schema, in the same run, and the history has both replies."""
    notes: list[str] = []
    with ScriptedProvider('{"name": "Ada", "age": "old"}', '{"name": "Ada", "age": 36}') as provider:
        one = agent(provider, on_note=notes.append)
        events: list[Any] = []
        one.subscribe(events.append)
        assert Person("Ada", 36) == await one.prompt_as(Person, "Who?")
    check_grammar(events)
    assert 1 == len([event for event in events if event.type == "agent_start"])
    assert ["user", "assistant", "user", "assistant"] == [
        message["role"] for message in one.state["messages"]
    ]
    asked = provider.calls[1].context.messages[-1]["content"][0]["text"]  # type: ignore[typeddict-item, index]
    assert "Expected `int`, got `str` - at `$.age`" in asked
    assert '"required":["name","age"]' in asked
    assert ["The answer does not fit the schema. The model is asked to repair it, once."] == notes
    assert provider.calls[0].options["response_schema"] == provider.calls[1].options["response_schema"]


@pytest.mark.parametrize("second", ["still no JSON", '{"x": "a"}'])
async def test_an_answer_that_is_not_repaired_is_an_error(second: str) -> None:
    """There is one repair. The error has the text of the last reply."""
    with pytest.raises(InvalidAnswerError) as caught:
        await answer(Point, "no JSON", second)
    assert ("invalid_answer", second) == (caught.value.kind, caught.value.partial_text)


async def test_an_empty_reply_is_repaired_too() -> None:
    """If the second one is empty again, the error is that of any empty reply, with the text before."""
    assert Point(1) == await answer(Point, "", '{"x": 1}')
    with pytest.raises(EmptyReplyError) as caught:
        await answer(Point, "no JSON", "")
    assert "no JSON" == caught.value.partial_text


async def test_the_error_of_an_invalid_answer() -> None:
    """It says what the reply was instead."""
    with pytest.raises(InvalidAnswerError, match=r"the reply is not JSON: 'I cannot'"):
        await answer(Point, "no JSON", "I cannot")


async def test_a_plain_prompt_has_no_schema() -> None:
    """The schema belongs to one run."""
    with ScriptedProvider('{"x": 1}', "plain") as provider:
        one = agent(provider)
        await one.prompt_as(Point, "Hi")
        assert "plain" == await one.prompt_text("Hi")
    assert "response_schema" not in provider.calls[1].options


async def test_a_truncated_reply_is_not_repaired() -> None:
    """It has its own error, also if its text is JSON."""
    with pytest.raises(OutputTruncatedError) as caught:
        await answer(list[int], Reply('{"items": [1', stop_reason="length"))
    assert '{"items": [1' == caught.value.partial_text


async def test_a_refusal_is_not_repaired() -> None:
    """The model would refuse again."""
    with pytest.raises(InvalidAnswerError, match="refused to answer: I will not"):
        await answer(Point, Reply("I will not", refusal=True))


async def test_failures_of_the_provider_are_their_own_errors() -> None:
    """As for `prompt_text`."""
    with pytest.raises(ProviderError, match="broken"):
        await answer(Point, Reply("{", error="broken"))
    with pytest.raises(ContentFilterError):
        await answer(Point, Reply(error="withheld", error_kind="content_filter"))


async def test_an_abort_is_an_abort() -> None:
    """Not an invalid answer."""
    with ScriptedProvider(Reply("{", hang=True)) as provider:
        one = agent(provider)
        one.subscribe(lambda event: one.abort() if event.type == "message_update" else None)
        with pytest.raises(RunAbortedError):
            await one.prompt_as(Point, "Hi")


async def _look(call_id: str, args: Any, signal: Any, on_update: Any) -> AgentToolResult:
    return AgentToolResult([{"type": "text", "text": "7"}])


LOOK = AgentTool("look", "Look.", execute=_look)


async def test_tools_run_before_the_answer() -> None:
    """The schema is sent with every request of the run; a reply with calls is not judged."""
    with ScriptedProvider(Reply("Let me look.", call("look")), '{"x": 7}') as provider:
        one = agent(provider)
        one.set_tools([LOOK])
        assert Point(7) == await one.prompt_as(Point, "Hi")
    assert all("response_schema" in call.options for call in provider.calls)


async def test_a_limit_is_not_exceeded_by_the_repair() -> None:
    """max_turns counts the repair, too."""
    with ScriptedProvider("no") as provider, pytest.raises(InvalidAnswerError):
        await agent(provider, max_turns=1).prompt_as(Point, "Hi")
    with ScriptedProvider(Reply(call("look"))) as provider:
        one = agent(provider, max_turns=1)
        one.set_tools([LOOK])
        with pytest.raises(RunLimitError):
            await one.prompt_as(Point, "Hi")


async def test_queued_messages_follow_the_repair() -> None:
    """The value is that of the last reply."""
    with ScriptedProvider("no", '{"x": 1}', '{"x": 2}') as provider:
        one = agent(provider)
        one.follow_up("And now 2")
        assert Point(2) == await one.prompt_as(Point, "1")
    texts = [message["content"][0]["text"] for message in one.state["messages"]]  # type: ignore[index, typeddict-item]
    assert ["1", "no", "And now 2"] == [texts[0], texts[1], texts[4]]


async def test_a_run_that_a_tool_ends_has_no_answer() -> None:
    """The error says so, although `prompt` would succeed."""

    async def end(call_id: str, args: Any, signal: Any, on_update: Any) -> AgentToolResult:
        return AgentToolResult([{"type": "text", "text": "over"}], terminate=True)

    with ScriptedProvider(Reply(call("end"))) as provider:
        one = agent(provider)
        one.set_tools([AgentTool("end", "End.", execute=end)])
        with pytest.raises(InvalidAnswerError, match="the reply has no text"):
            await one.prompt_as(Point, "Hi")


# ---- forms that cannot be used --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "nothing"}, "type"),
        ({"$ref": "#/$defs/missing"}, "points to nothing"),
        ({"$ref": "https://example.org/schema"}, "outside the schema"),
        ({"type": "string", "pattern": "["}, "cannot be used"),
    ],
)
async def test_a_schema_that_cannot_be_used(schema: dict[str, Any], text: str) -> None:
    """It is refused before the first request."""
    with ScriptedProvider() as provider, pytest.raises(ConfigurationError, match=text):
        await agent(provider).prompt_as(schema, "Hi")


async def test_a_type_that_cannot_be_used() -> None:
    """So is a type that JSON cannot express, and a prompt in its place."""
    with ScriptedProvider() as provider:
        with pytest.raises(TypeError, match="cannot be the type of an answer"):
            await agent(provider).prompt_as(complex, "Hi")
        with pytest.raises(TypeError, match="The prompt is the second argument"):
            await agent(provider).prompt_as("Hi", Point)  # type: ignore[arg-type]


# ---- schemas for providers ----------------------------------------------------------------------------


def test_strict_schemas_of_types() -> None:
    """Every object is closed, and every property is required; an optional one accepts null."""
    strict = strict_schema(answer_form(Person).schema, OPENAI)
    assert strict is not None
    assert False is strict["additionalProperties"]
    assert ["name", "age", "tags", "nickname"] == strict["required"]
    assert {"type": ["array", "null"], "items": {"type": "string"}} == strict["properties"]["tags"]
    assert {"anyOf": [{"type": "string"}, {"type": "null"}]} == strict["properties"]["nickname"]


def test_anthropic_keeps_optional_properties_and_has_no_recursion() -> None:
    """Its limits are other ones: no numeric limits, no schema that contains itself."""

    class Limited(msgspec.Struct):
        count: Annotated[int, msgspec.Meta(ge=1)]
        note: str = ""

    strict = strict_schema(answer_form(Limited).schema, ANTHROPIC)
    assert strict is not None
    assert {"type": "integer"} == strict["properties"]["count"]
    assert ["count"] == strict["required"]
    assert strict_schema(answer_form(Node).schema, ANTHROPIC) is None
    assert strict_schema(answer_form(Node).schema, OPENAI) is not None


@pytest.mark.parametrize(
    "form",
    [
        dict[str, int],
        Any,
        list[Any],
        {"type": "object"},
        {"type": "object", "properties": {"a": {"not": {}}}},
    ],
    ids=str,
)
def test_a_schema_without_a_strict_form(form: Any) -> None:
    """It is sent as a hint, and validated here."""
    assert strict_schema(answer_form(form).schema, OPENAI) is None


def test_shared_definitions_are_no_recursion() -> None:
    """Each definition is looked at once, however many ways lead to it."""
    references = [{"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)]
    definitions: dict[str, Any] = {f"d{n}": part for n, part in enumerate([*references, {"type": "integer"}])}
    top = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": definitions}
    assert strict_schema(top, ANTHROPIC) is not None
    definitions["d60"] = {"type": "array", "items": {"$ref": "#/$defs/d30"}}
    assert strict_schema(top, ANTHROPIC) is None


@pytest.mark.parametrize(
    "part", [{"type": [{}]}, {"type": 5}, {"anyOf": 1}, 3, {"type": "array", "items": []}]
)
def test_a_malformed_schema_is_not_an_error_here(part: Any) -> None:
    """A proxy gets schemas that were not checked. The provider behind it reports the fault."""
    strict_schema({"type": "object", "properties": {"a": part}, "required": 1}, OPENAI)
    strict_schema({"type": "object", "properties": part, "$defs": part}, ANTHROPIC)


def test_references_survive_the_wrapping() -> None:
    """A reference to the whole schema points to the wrapped schema."""
    schema = {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"$ref": "#"}]}}
    form = answer_form(schema)
    inner = form.schema["properties"]["items"]
    assert "#/properties/items" == inner["items"]["anyOf"][1]["$ref"]
    assert [1, [2, []]] == form.read(assistant('{"items": [1, [2, []]]}'))
    itself = answer_form({"type": "object", "properties": {"next": {"$ref": "#"}}})
    assert "#/$defs/the_whole_answer" == itself.schema["properties"]["next"]["$ref"]
    assert (
        "#/$defs/the_whole_answer" == itself.schema["$defs"]["the_whole_answer"]["properties"]["next"]["$ref"]
    )
    assert {"next": {"next": {}}} == itself.read(assistant('{"next": {"next": {}}}'))
    assert strict_schema(itself.schema, ANTHROPIC) is None
    many = json_form({"type": "object", "properties": {"next": {"$ref": "#"}}}, many=True)
    assert (
        "#/properties/items/items"
        == many.schema["properties"]["items"]["items"]["properties"]["next"]["$ref"]
    )
    assert [{"next": {}}] == many.read(assistant('{"items": [{"next": {}}]}'))


def test_a_list_names_the_item_with_the_fault() -> None:
    """Items are numbered from 0."""
    with pytest.raises(InvalidAnswerError, match=r"item 1: .*\$\.x"):
        json_form(Point, many=True).read(assistant('[{"x": 1}, {"x": "a"}]'))


class Everything(msgspec.Struct):
    a: int
    b: str | None = None
    c: list[Point] = []
    d: dict[str, int] = {}
    e: Cat | Dog | None = None
    f: float = 0.0
    g: Colour = Colour.RED


@given(
    st.builds(
        Everything,
        a=st.integers(-(2**53), 2**53),
        b=st.none() | st.text(),
        c=st.lists(st.builds(Point, x=st.integers(-5, 5), y=st.floats(-5, 5))),
        d=st.dictionaries(st.text(), st.integers(-5, 5)),
        e=st.none() | st.builds(Cat, lives=st.integers(0, 9)) | st.builds(Dog, name=st.text()),
        f=st.floats(allow_nan=False, allow_infinity=False),
        g=st.sampled_from(Colour),
    )
)
def test_every_value_is_read_back(value: Everything) -> None:
    """What was encoded is what is read, whatever its content."""
    text = msgspec.json.encode(value).decode()
    assert value == answer_form(Everything).read(assistant(text))
    assert value == answer_form(Everything).read(assistant(f"So:\n```json\n{text}\n```"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text("{}[]\"'`\n a1,:", max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
    st.text("{}[]\"'`\n a1,:", max_size=60),
)
def test_no_reply_breaks_the_reader(value: Any, text: str) -> None:
    """A reply gives a value or the error."""
    for shown in (text, json.dumps(value), f"{text}{json.dumps(value)}"):
        for form in (Point, list[int], {"type": "array"}, {}):
            try:
                answer_form(form).read(assistant(shown))
            except InvalidAnswerError:
                pass
    assert value == answer_form({}).read(assistant(json.dumps({"value": value})))


def test_a_reply_of_deep_nesting_is_refused() -> None:
    """Neither the reader nor the conversion runs out of stack."""
    with pytest.raises(InvalidAnswerError):
        answer_form(Node).read(assistant('{"value": 1, "children": [' * 50_000))
    deep = '{"value": 1, "children": [' * 5000 + "]}" * 5000
    with pytest.raises(InvalidAnswerError):
        answer_form(Node).read(assistant(deep))
