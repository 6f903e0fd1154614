"""Questions of tools and MCP servers to the user of an editor."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Start, initialize

pytestmark = pytest.mark.slow

ASKING = """
from tinyagent import tool
from tinyagent.interaction import CompletionRequest, Form, Link, current_interaction

FIELDS = {
    "text": {"seat": {"type": "string", "minLength": 2}},
    "choice": {"meal": {"type": "string", "enum": ["v", "m"], "enumNames": ["Veg", "Meat"]}},
    "flag": {"sure": {"type": "boolean"}},
    "none": {},
}

@tool(read_only=True)
async def book(fields: str) -> str:
    "Book."
    schema = {"type": "object", "properties": FIELDS[fields], "required": list(FIELDS[fields])}
    answer = await current_interaction().fill_in(Form(source="The desk", message="Choose", schema=schema))
    return f"{answer.accepted} {answer.values}"

@tool(read_only=True)
async def link() -> str:
    "Open an address."
    answer = await current_interaction().open_link(
        Link(source="The desk", message="Sign in", url="https://a.example/")
    )
    return f"{answer.accepted}"

@tool(read_only=True)
async def think() -> str:
    "Ask the model."
    user = {"role": "user", "content": [{"type": "text", "text": "Hello"}], "timestamp": 0}
    reply = await current_interaction().complete(
        CompletionRequest(source="The desk", messages=[user], max_tokens=50)
    )
    return f"{reply.text is not None}"
"""


async def test_an_editor_with_forms(start: Start, project: Path) -> None:
    """It shows the form and the link. Values that do not fit, and a refusal, are declined."""
    (project / "asking.py").write_text(ASKING)
    editor = await start(tools="./asking.py")
    await initialize(editor, elicits=True)
    session = (await editor.new()).session_id
    editor.filled_in = {"seat": "12A"}
    await editor.ask(session, "book fields=text")
    assert "True {'seat': '12A'}" in editor.text()
    [form] = editor.elicitations
    assert ("The desk asks: Choose", session) == (form["message"], form["sessionId"])
    assert {"type": "string", "minLength": 2} == form["requestedSchema"]["properties"]["seat"]
    for values in ({"seat": "1"}, None):
        editor.filled_in = values
        editor.updates.clear()
        await editor.ask(session, "book fields=text")
        assert "False {}" in editor.text()
    editor.filled_in = {}
    editor.updates.clear()
    await editor.ask(session, "link")
    assert ("https://a.example/", True) == (editor.elicitations[-1]["url"], "True" in editor.text())
    assert [] == editor.questions


async def test_an_editor_without_forms(start: Start, project: Path) -> None:
    """It gets a permission request for what can be chosen. A form that needs a text is declined."""
    (project / "asking.py").write_text(ASKING)
    editor = await start(tools="./asking.py")
    session = (await editor.new()).session_id
    for prompt, answer, expected in (
        ("book fields=choice", "1", "True {'meal': 'm'}"),
        ("book fields=flag", "1", "True {'sure': False}"),
        ("book fields=none", "0", "True {}"),
        ("book fields=none", "decline", "False {}"),
        ("link", "0", "True"),
        ("think", "0", "True"),
    ):
        editor.answer = answer
        editor.updates.clear()
        assert "end_turn" == (await editor.ask(session, prompt)).stop_reason
        assert expected in editor.text()
        final = "failed" if answer == "decline" else "completed"
        assert {"completed", final} == {statuses[-1] for statuses in editor.statuses()}
    assert 7 == len(editor.questions)  # the prompt for the model, and its reply
    assert "Sign in\nhttps://a.example/" == editor.questions[4]["content"][0]["content"]["text"]
    editor.updates.clear()
    await editor.ask(session, "book fields=text")
    assert ("False {}" in editor.text(), 7) == (True, len(editor.questions))
    assert [] == editor.elicitations


async def test_a_question_is_cancelled(start: Start, project: Path) -> None:
    """Cancelling while a question is open ends the prompt, and the next prompt is accepted."""
    (project / "asking.py").write_text(ASKING)
    editor = await start(tools="./asking.py")
    session = (await editor.new()).session_id
    editor.answer = "cancelled"
    assert "cancelled" == (await editor.ask(session, "book fields=flag")).stop_reason
    editor.answer = "0"
    assert "end_turn" == (await editor.ask(session, "book fields=flag")).stop_reason
    assert "True {'sure': True}" in editor.text()
