"""Answers with a type. Checked by mypy and pyright, and never run."""

from dataclasses import dataclass
from typing import TypedDict, assert_type

import msgspec

from tinyagent import Agent
from tinyagent.agent_types import JsonValue
from tinyagent.errors import InvalidAnswerError


class Person(msgspec.Struct):
    name: str
    age: int = 0


@dataclass
class Point:
    x: int


class Town(TypedDict):
    name: str


async def answers(agent: Agent) -> None:
    """The type of the answer is the type that was asked for."""
    assert_type(await agent.prompt_as(Person, "Who?"), Person)
    assert_type(await agent.prompt_as(Point, "Where?"), Point)
    assert_type(await agent.prompt_as(Town, "Which?"), Town)
    assert_type(await agent.prompt_as(int, "How many?"), int)
    assert_type(await agent.prompt_as(list[Person], ["Who?", "All of them."]), list[Person])
    assert_type(
        await agent.prompt_as(dict[str, int], "Hi", images=["https://example.org/a.png"]), dict[str, int]
    )
    town = await agent.prompt_as(Town, {"role": "user", "content": "Which?"})
    print(town["name"].upper())


async def schemas(agent: Agent) -> None:
    """The answer to a JSON Schema is JSON."""
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    value: JsonValue = await agent.prompt_as(schema, "Hi")
    if isinstance(value, dict):
        print(value["x"])


async def unions(agent: Agent) -> None:
    """A union is narrowed by the program."""
    value: object = await agent.prompt_as(int | str, "Hi")
    if isinstance(value, int):
        print(value + 1)


async def failures(agent: Agent) -> None:
    """The error has the text of the reply."""
    try:
        await agent.prompt_as(Person, "Who?")
    except InvalidAnswerError as error:
        print(error, error.partial_text)
