"""Sessions, their settings, and the MCP servers that an editor hands over."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from acp import RequestError
from acp.schema import EnvVariable, HttpMcpServer, McpServerStdio, SseMcpServer

from .conftest import Start, initialize

pytestmark = pytest.mark.slow

TINY = Path(__file__).parents[2] / "tinyagent-mcp" / "tests" / "tiny.py"


async def test_what_the_agent_can_do(start: Start) -> None:
    """The editor learns it at the beginning."""
    reply = await initialize(await start())
    assert (1, "tinyagent") == (reply.protocol_version, reply.agent_info.name)
    can = reply.agent_capabilities
    assert (True, True, True) == (
        can.load_session, can.prompt_capabilities.image, can.prompt_capabilities.embedded_context,
    )  # fmt: skip
    sessions = can.session_capabilities
    assert None not in (sessions.list, sessions.resume, sessions.close, sessions.fork)
    assert can.mcp_capabilities.http
    assert ["keys"] == [method.id for method in reply.auth_methods]


async def test_a_session_is_saved_and_loaded(start: Start, project: Path) -> None:
    """Another process shows the conversation again, and goes on with it."""
    editor = await start()
    session = (await editor.new()).session_id
    await editor.ask(session, "What is 6 * 7?")
    await editor.ask(session, 'write path="a.txt" content="x"')
    await editor.agent.close_session(session_id=session)
    with pytest.raises(RequestError, match=r"No session .* is open"):
        await editor.ask(session, "Hello")
    other = await start()
    [found] = (await other.agent.list_sessions(cwd=str(project))).sessions
    assert (session, str(project), "What is 6 * 7?") == (found.session_id, found.cwd, found.title)
    assert [] == (await other.agent.list_sessions(cwd="/nowhere")).sessions
    loaded = await other.agent.load_session(cwd=str(project), session_id=session, mcp_servers=[])
    assert "ask" == loaded.modes.current_mode_id
    assert 'What is 6 * 7?write path="a.txt" content="x"' == other.text("user_message_chunk")
    assert "6 * 7 = 42write: Created a.txt: 1 line(s), 1 bytes." == other.text()
    assert [["pending", "completed"]] * 2 == other.statuses()
    await other.ask(session, "What is 6 * 8?")
    assert 3 == len(other.calls())
    [found] = (await other.agent.list_sessions(cwd=str(project))).sessions
    assert session == found.session_id


async def test_a_new_session_gets_a_title(start: Start) -> None:
    """After the first prompt the editor learns the title that the list of sessions has."""
    editor = await start()
    session = (await editor.new()).session_id
    await editor.ask(session, "What  is 6 * 7?")
    await editor.until(lambda: "session_info_update" in str(editor.updates))
    await editor.ask(session, "What is 6 * 8?")
    titles = [u["title"] for u in editor.updates if u["sessionUpdate"] == "session_info_update"]
    [listed] = (await editor.agent.list_sessions()).sessions
    assert (["What is 6 * 7?"], "What is 6 * 7?") == (titles, listed.title)


async def test_resume_shows_nothing_again(start: Start, project: Path) -> None:
    """The editor has the conversation. An open session is continued, too."""
    editor = await start()
    session = (await editor.new()).session_id
    await editor.ask(session, "Hello")
    await editor.until(lambda: "available_commands_update" in str(editor.updates))
    await editor.until(lambda: "session_info_update" in str(editor.updates))
    editor.updates.clear()
    await editor.agent.resume_session(cwd=str(project), session_id=session, mcp_servers=[])
    assert ["available_commands_update"] == [update["sessionUpdate"] for update in editor.updates]
    assert "end_turn" == (await editor.ask(session, "Hello")).stop_reason


async def test_a_fork_goes_on_without_the_original(start: Start, project: Path) -> None:
    """A copy has the conversation so far, also if the session is open; each then has its own."""
    editor = await start()
    session = (await editor.new()).session_id
    await editor.ask(session, "What is 6 * 7?")
    fork = await editor.agent.fork_session(cwd=str(project), session_id=session, mcp_servers=[])
    assert fork.session_id != session
    assert "ask" == fork.modes.current_mode_id
    await editor.ask(fork.session_id, "What is 6 * 8?")
    await editor.ask(session, "What is 6 * 9?")
    for id in (session, fork.session_id):
        await editor.agent.close_session(session_id=id)
    other = await start()
    asked = []
    for id in (session, fork.session_id):
        other.updates.clear()
        await other.agent.load_session(cwd=str(project), session_id=id, mcp_servers=[])
        asked.append(other.text("user_message_chunk"))
    assert ["What is 6 * 7?What is 6 * 9?", "What is 6 * 7?What is 6 * 8?"] == asked


async def test_a_fork_that_cannot_start(start: Start, project: Path) -> None:
    """No copy stays behind."""
    editor = await start()
    session = (await editor.new()).session_id
    await editor.ask(session, "Hello")
    other = await start(model="openai/gpt-5")
    with pytest.raises(RequestError, match="There is no key"):
        await other.agent.fork_session(cwd=str(project), session_id=session, mcp_servers=[])
    assert [session] == [saved.session_id for saved in (await editor.agent.list_sessions()).sessions]


@pytest.mark.parametrize("id", ["0" * 32, "../../etc/passwd", "", "hello"])
async def test_there_is_no_such_session(start: Start, project: Path, id: str) -> None:
    """It is an error, and no session with this name is created."""
    editor = await start()
    with pytest.raises(RequestError, match="There is no session") as raised:
        await editor.agent.load_session(cwd=str(project), session_id=id, mcp_servers=[])
    assert -32002 == raised.value.code
    with pytest.raises(RequestError, match="There is no session"):
        await editor.agent.fork_session(cwd=str(project), session_id=id, mcp_servers=[])
    assert [] == (await editor.agent.list_sessions()).sessions


async def test_a_session_in_use(start: Start, project: Path) -> None:
    """A session that another process writes is not loaded, and the error says why."""
    editor, other = await start(), await start()
    session = (await editor.new()).session_id
    await editor.ask(session, "Hello")
    with pytest.raises(RequestError, match="is in use: another process writes it"):
        await other.agent.load_session(cwd=str(project), session_id=session, mcp_servers=[])


@pytest.mark.parametrize("folder", ["relative", "/no/such/folder", ""])
async def test_a_wrong_folder(start: Start, folder: str) -> None:
    """The error names it."""
    editor = await start()
    with pytest.raises(RequestError, match="is not the full path of a folder") as raised:
        await editor.agent.new_session(cwd=folder, mcp_servers=[])
    assert -32602 == raised.value.code


async def test_there_is_no_key(start: Start) -> None:
    """The error is `auth_required`, and its message says what to do."""
    editor = await start(model="openai/gpt-5")
    for begin in (editor.new(), editor.agent.authenticate(method_id="keys")):
        with pytest.raises(RequestError, match="tinyagent keys set openai") as raised:
            await begin
        assert -32000 == raised.value.code


async def test_no_model_is_chosen(start: Start) -> None:
    """This is `auth_required`, too, because the agent has to be set up."""
    editor = await start(model=None)
    with pytest.raises(RequestError, match="No model was chosen") as raised:
        await editor.new()
    assert -32000 == raised.value.code


async def test_authenticate_checks_the_set_up(start: Start) -> None:
    """It succeeds if a session can be started, and saves none."""
    editor = await start()
    assert await editor.agent.authenticate(method_id="keys") is not None
    with pytest.raises(RequestError, match="no authentication method"):
        await editor.agent.authenticate(method_id="other")
    assert [] == (await editor.agent.list_sessions()).sessions


async def test_read_only(start: Start, project: Path) -> None:
    """In this mode nothing is changed and nothing is asked, although the tool is allowed."""
    editor = await start("--allow", "write")
    new = await editor.new()
    assert ["ask", "accept-edits", "read-only"] == [mode.id for mode in new.modes.available_modes]
    await editor.agent.set_session_mode(session_id=new.session_id, mode_id="read-only")
    assert ["current_mode_update", "config_option_update"] == [
        update["sessionUpdate"] for update in editor.updates if "available" not in update["sessionUpdate"]
    ]
    await editor.ask(new.session_id, 'write path="a.txt" content="x"')
    assert ([], False) == (editor.questions, (project / "a.txt").exists())
    assert "failed" == editor.statuses()[0][-1]
    await editor.agent.set_session_mode(session_id=new.session_id, mode_id="ask")
    await editor.ask(new.session_id, 'write path="a.txt" content="x"')
    assert (project / "a.txt").exists()


async def test_accept_edits(start: Start, project: Path) -> None:
    """In this mode files are written without a question, and commands are not run without one."""
    editor = await start("--mode", "accept-edits", tools="fs,shell")
    session = (await editor.new()).session_id
    editor.answer = "no"
    await editor.ask(session, 'write path="a.txt" content="x"')
    assert ([], "x") == (editor.questions, (project / "a.txt").read_text())
    await editor.ask(session, 'bash command="touch b.txt"')
    assert (["`touch b.txt`"], False) == (
        [question["title"] for question in editor.questions], (project / "b.txt").exists(),
    )  # fmt: skip


@pytest.mark.parametrize("sandbox", ["auto", "off"])
async def test_the_sandbox_of_a_command(start: Start, monkeypatch: pytest.MonkeyPatch, sandbox: str) -> None:
    """A question says what confines the command; only a sandbox can be left, and only once."""
    monkeypatch.setenv("TINYAGENT_SANDBOX", sandbox)
    editor = await start(tools="shell")
    session = (await editor.new()).session_id
    editor.answer = "no"
    await editor.ask(session, 'bash command="true"')
    [question] = editor.questions
    text = question["content"][0]["content"]["text"]
    assert ("outside" in question["options"]) == ("no sandbox" not in text.lower())
    assert question["options"].get("outside", "allow_once") == "allow_once"
    if sandbox == "off":
        assert "no sandbox" in text.lower()


async def test_settings(start: Start) -> None:
    """The mode and the model are settings, too. Wrong ones are refused and change nothing."""
    editor = await start()
    new = await editor.new()
    assert [("mode", "ask"), ("model", "demo")] == [(o.id, o.current_value) for o in new.config_options]

    async def choose(id: str, value: str) -> list[tuple[str, str]]:
        reply = await editor.agent.set_config_option(config_id=id, session_id=new.session_id, value=value)
        return [(option.id, option.current_value) for option in reply.config_options]

    assert [("mode", "accept-edits"), ("model", "demo")] == await choose("mode", "accept-edits")
    assert [("mode", "accept-edits"), ("model", "demo/other")] == await choose("model", "demo/other")
    assert "end_turn" == (await editor.ask(new.session_id, "Hello")).stop_reason
    for id, value in (("mode", "nix"), ("model", "nix/m"), ("nix", "x")):
        with pytest.raises(RequestError, match="nix"):
            await choose(id, value)
    with pytest.raises(RequestError, match="nix"):
        await editor.agent.set_session_mode(session_id=new.session_id, mode_id="nix")
    assert [("mode", "ask"), ("model", "demo/other")] == await choose("mode", "ask")


async def test_models_of_the_stored_list(start: Start) -> None:
    """The editor can choose from the models of the provider, if they are known."""
    listing = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "tinyagent_cli",
        "models",
        "list",
        "demo",
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert 0 == await listing.wait()
    editor = await start(model="demo/other")
    model = (await editor.new()).config_options[1]
    assert ("model", ["demo/other", "demo/demo"]) == (
        model.category,
        [option.value for option in model.options],
    )


def stdio(name: str = "My tiny server!") -> McpServerStdio:
    """Return a server as an editor hands it over."""
    return McpServerStdio(
        name=name,
        command=sys.executable,
        args=["-I", "-S", str(TINY)],
        env=[EnvVariable(name="TEST_TOOLS", value="one two")],
    )


async def test_servers_of_the_editor(start: Start) -> None:
    """Their tools are used in this session alone, with the variables of the editor, and need approval."""
    editor = await start()
    session = (await editor.new(mcp_servers=[stdio(), stdio()])).session_id
    await editor.ask(session, "My-tiny-server__one")
    assert "end_turn" == (await editor.ask(session, "My-tiny-server-2__two")).stop_reason
    assert 2 == len(editor.questions)
    assert [["pending", "in_progress", "completed"]] * 2 == editor.statuses()
    await editor.ask((await editor.new()).session_id, "My-tiny-server__one")
    assert 2 == len(editor.calls())


async def test_servers_are_private(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the editor hands over, such as keys, is in a file of the user, as long as the session is open."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    editor = await start()
    session = (await editor.new(mcp_servers=[stdio()])).session_id
    [file] = tmp_path.glob("tinyagent-acp-*/mcp.toml")
    assert (0o600, 0o700) == (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777)
    await editor.agent.close_session(session_id=session)
    assert not file.parent.exists()


async def test_servers_that_cannot_be_used(start: Start) -> None:
    """The error says why. If another server can be used, the session has its tools."""
    editor = await start()
    with pytest.raises(RequestError, match="'old' is reached by sse, which is not supported"):
        await editor.new(
            mcp_servers=[SseMcpServer(type="sse", name="old", url="http://127.0.0.1:1/", headers=[])]
        )
    with pytest.raises(RequestError, match="is not encrypted"):
        await editor.new(
            mcp_servers=[HttpMcpServer(type="http", name="x", url="http://example.org/", headers=[])]
        )
    missing = McpServerStdio(name="missing", command="/no/such/program", args=[], env=[])
    with pytest.raises(RequestError, match="the program '/no/such/program' was not found"):
        await editor.new(mcp_servers=[missing])
    session = (await editor.new(mcp_servers=[missing, stdio()])).session_id
    assert "end_turn" == (await editor.ask(session, "My-tiny-server__one")).stop_reason
    assert [["pending", "in_progress", "completed"]] == editor.statuses()


async def test_the_default_tools(start: Start, home: Path) -> None:
    """They are those of the configuration, or else the tools for files and commands."""
    editor = await start(tools="")
    await editor.ask((await editor.new()).session_id, 'bash command="true"')
    assert ["`true`"] == [question["title"] for question in editor.questions]
    (home / "tinyagent" / "config.toml").write_text('[run]\ntools = ["calc"]\n')
    session = (await editor.new()).session_id
    await editor.ask(session, 'bash command="true"')
    assert 1 == len(editor.questions)
