"""Prompt templates: `tinyagent templates`, and `run -p NAME -P NAME=VALUE`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tinyagent.testing.server import FakeReply

from .conftest import TOOLS, Cli, Serve, sent

ASK = """+++
description = "Ask about a text"
model = "local/m"
system = "Speak {{ language }}."
tools = ["calc"]

[defaults]
language = "English"
count = 3
+++
In {{language}}, {{ count }} facts about {{ topic }} {{ "{{" }}.
"""


Write = Callable[[str, str], Path]


def writer(folder: Path) -> Write:
    """Return a function that writes a template into this folder."""

    def write(name: str, text: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def user(cli: Cli) -> Write:
    """Writes a template of the user."""
    return writer(cli.home / "templates")


@pytest.fixture
def project(cli: Cli) -> Write:
    """Writes a template of the project."""
    return writer(cli.work / ".tinyagent" / "templates")


# ---- run -p ---------------------------------------------------------------------------------------------


def test_a_template_sets_the_model_the_system_prompt_the_tools_and_the_prompt(
    cli: Cli, user: Write, serve: Serve
) -> None:
    """Variables have the value of -P or their default, which may be a number."""
    server = serve(FakeReply.text("Fine."))
    user("ask.md", ASK)
    done = cli("run", "-p", "ask", "-P", "topic=a = {{ count }}")
    assert (0, "Fine.\n", "") == done
    assert [
        ("system", "Speak English."),
        ("user", "In English, 3 facts about a = {{ count }} {{."),
    ] == sent(server)
    assert ["calc"] == [tool["function"]["name"] for tool in server.requests[0].json["tools"]]


def test_options_take_precedence(cli: Cli, user: Write, serve: Serve) -> None:
    """-m, -s, -t and -P do."""
    server = serve(FakeReply.text("Fine."))
    user("ask.md", ASK.replace("local/m", "nowhere/m"))
    cli.file("tools.py", TOOLS)
    more = ["-m", "local/other", "-s", "Be brief.", "-t", "./tools.py:look"]
    done = cli("run", "-p", "ask", *more, "-P", "topic=x", "-P", "language=French")
    assert 0 == done.code, done.err
    assert [("system", "Be brief."), ("user", "In French, 3 facts about x {{.")] == sent(server)
    assert "other" == server.requests[0].json["model"]
    assert ["look"] == [tool["function"]["name"] for tool in server.requests[0].json["tools"]]


def test_a_template_takes_precedence_over_the_session(cli: Cli, user: Write, serve: Serve) -> None:
    """Its model and its system prompt do."""
    server = serve(FakeReply.text("one"))
    user("t.toml", 'model = "local/m"\nsystem = "New."\nprompt = "Go on."\n')
    assert 0 == cli("run", "-m", "demo", "-s", "Old.", "Hi").code
    assert 0 == cli("run", "-c", "-p", "t").code
    messages = sent(server)
    assert ("system", "New.") == messages[0]
    assert ("user", "Go on.") == messages[-1]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("Hello.", "from stdin\n\nHello.\n\nfrom argument"),
        ("A {{ stdin }} B", "A from stdin B\n\nfrom argument"),
        ("A {{ prompt }} B", "from stdin\n\nA from argument B"),
        ("{{ prompt }}{{ stdin }}", "from argumentfrom stdin"),
    ],
)
def test_standard_input_and_the_prompt(
    cli: Cli, user: Write, serve: Serve, template: str, expected: str
) -> None:
    """Both are variables; without one, they come before and after the prompt of the template."""
    server = serve(FakeReply.text("Fine."))
    user("t.md", template)
    done = cli("run", "-m", "local/m", "-p", "t", "from argument", stdin=b"from stdin\n")
    assert 0 == done.code, done.err
    assert [("user", expected)] == sent(server)


def test_a_template_without_a_prompt(cli: Cli, user: Write) -> None:
    """The prompt of the command line is needed then."""
    user("t.toml", 'model = "demo"\n')
    assert 2 == cli("run", "-p", "t").code
    assert cli("run", "-p", "t", "Hello.").out.startswith("You said: Hello.\n")


def test_a_schema(cli: Cli, user: Write, project: Write) -> None:
    """It is a text as for --schema, or a table. The option takes precedence."""
    user("one.toml", 'model = "demo"\nschema = "name, age int"\n')
    project("two.toml", 'model = "demo"\n[schema_multi]\ntype = "object"\nproperties.a.type = "integer"\n')
    assert '{"name":"Ada","age":36}\n' == cli("run", "-p", "one", "name=Ada age=36").out
    assert '{"a":1}\n' == cli("run", "-p", "two", "a=1").out
    assert '{"a":"1"}\n' == cli("run", "-p", "one", "--schema", "a", "a=1").out
    done = cli("run", "-p", "one", "-x", "a=1")
    assert (2, "") == (done.code, done.out)
    assert "-x prints a code block, but the template 'one' has a schema" in done.err


def test_a_type_as_the_schema(cli: Cli, user: Write) -> None:
    """A template of the user can name it."""
    cli.file("models.py", "SCHEMA = {'type': 'integer'}\n")
    user("t.toml", 'model = "demo"\nschema = "./models.py:SCHEMA"\nprompt = "7"\n')
    done = cli("run", "-p", "t")
    assert (0, "7\n") == (done.code, done.out), done.err


@pytest.mark.parametrize(
    ("args", "stdin", "message", "hint"),
    [
        (["-P", "topik=x"], None, "-P topik: the template 'ask' has no variable", "topic"),
        ([], None, "needs a value for topic: -P topic=…", "(default 'English'), count (default '3'), topic"),
        (["-P", "topic"], None, "-P topic: write it as NAME=VALUE", ""),
        (["-P", "prompt=x"], None, "-P prompt: the value of this variable is the argument PROMPT", ""),
        (["-P", "stdin=x"], None, "-P stdin: the value of this variable is standard input", ""),
    ],
)
def test_wrong_variables(
    cli: Cli, user: Write, args: list[str], stdin: bytes | None, message: str, hint: str
) -> None:
    """An unknown or missing variable is a usage error that lists the known ones."""
    user("ask.md", ASK)
    done = cli("run", "-p", "ask", *args, stdin=stdin)
    assert (2, "") == (done.code, done.out)
    assert message in done.err
    assert hint in done.err


def test_missing_standard_input_and_prompt(cli: Cli, user: Write) -> None:
    """A variable for them needs them, unless it has a default."""
    user("in.md", "A {{ stdin }}")
    user("arg.md", "A {{ prompt }}")
    user("default.toml", 'prompt = "A {{ stdin }}"\ndefaults.stdin = "nothing"\n')
    done = cli("run", "-m", "demo", "-p", "in")
    assert 2 == done.code
    assert "needs a text on standard input" in done.err
    done = cli("run", "-m", "demo", "-p", "arg")
    assert 2 == done.code
    assert "needs a prompt" in done.err
    assert cli("run", "-m", "demo", "-p", "default").out.startswith("You said: A nothing\n")


def test_binary_standard_input(cli: Cli, user: Write) -> None:
    """It is an error that names the byte."""
    user("in.md", "A {{ stdin }}")
    done = cli("run", "-m", "demo", "-p", "in", stdin=b"a\xff")
    assert 2 == done.code
    assert "standard input is not UTF-8 text: byte 0xff at offset 1" in done.err


def test_an_unknown_template(cli: Cli, user: Write) -> None:
    """The error suggests a similar name, lists all, or explains -p."""
    done = cli("run", "-p", "ask", "Hi")
    assert 2 == done.code
    assert "There is no template 'ask'.\nTo write it: tinyagent templates edit ask\n" in done.err
    user("ask.md", "Hi")
    assert "Did you mean 'ask'?" in cli("run", "-p", "asc").err
    assert "Templates: ask." in cli("run", "-p", "zzz").err
    assert "A prompt is an argument without -p." in cli("run", "-p", "What is it?").err
    assert "there is no -p" in cli("run", "-m", "demo", "-P", "a=b", "Hi").err


def test_the_record_does_not_replace_the_template(cli: Cli, user: Write) -> None:
    """As for every file that the run reads."""
    path = user("t.md", "Hi")
    done = cli("run", "-m", "demo", "-p", "t", "-o", path)
    assert (2, "Hi") == (done.code, path.read_text())
    assert "would replace the file that the template t uses" in done.err


# ---- malformed files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.toml", "prompt = 1", "prompt: expected text, got an integer"),
        ("t.toml", "promt = 'x'", "unknown key 'promt'.\nDid you mean 'prompt'?"),
        ("t.toml", "yes = true\nprompt = 'x'", "unknown key 'yes'"),
        ("t.toml", "prompt = ", "is not TOML"),
        ("t.toml", "schema = 'a'\nschema_multi = 'a'", "cannot be used together"),
        ("t.toml", "prompt = '{{ x }}'\ndefaults.y = 'a'", "defaults.y: the template has no variable"),
        ("t.md", "---\nmodel: x\n---\n", "begins with ---. The front matter of a template is TOML"),
        ("t.md", "+++\nmodel = 'demo'\n", "the front matter has no end"),
        ("t.md", "+++\nmodel = 'demo'\nx y\n+++\nHi", "(at line 3, column 3)"),
        ("t.md", "+++\nprompt = 'x'\n+++\nHi", "In Markdown, the prompt is the text below"),
        ("t.md", "Hi {{ a b }}", "'{{ a b }}' is not a variable"),
        ("t.md", "Hi {{", "'{{' is not a variable"),
    ],
)
def test_malformed_templates(cli: Cli, user: Write, name: str, text: str, message: str) -> None:
    """The error names the file and the key. The other templates are still listed."""
    path = user(name, text)
    user("good.md", "Hi")
    done = cli("run", "-m", "demo", "-p", "t", "Hi")
    assert (3, "") == (done.code, done.out)
    assert str(path) in done.err
    assert message in done.err
    done = cli("templates", "list", "--json")
    problems = {row["name"]: row["problem"] for row in json.loads(done.out)}
    assert problems["good"] is None
    assert message.split("\n")[0] in problems["t"]


def test_two_files_for_a_name(cli: Cli, user: Write) -> None:
    """It is not guessed which of them is meant."""
    user("t.md", "one")
    user("t.toml", "prompt = 'two'")
    done = cli("run", "-m", "demo", "-p", "t")
    assert 3 == done.code
    assert "The template 't' has two files" in done.err


# ---- templates of a project -----------------------------------------------------------------------------


def test_a_template_of_the_project(cli: Cli, project: Write) -> None:
    """A note names its file."""
    project("t.md", "Hello {{ who }}.")
    done = cli("run", "-m", "demo", "-p", "t", "-P", "who=you")
    assert done.out.startswith("You said: Hello you.\n")
    assert "Using the template t of this project: .tinyagent/templates/t.md\n" in done.err


def test_a_template_of_the_user_takes_precedence(cli: Cli, user: Write, project: Write) -> None:
    """A repository cannot replace it."""
    user("t.md", "mine")
    project("t.toml", "prompt = 'theirs'")
    done = cli("run", "-m", "demo", "-p", "t")
    assert done.out.startswith("You said: mine\n")
    assert "project" not in done.err
    assert "t  project    (not used: yours has the same name)\n" in cli("templates", "list").out


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("tools = ['./tools.py']", 3, "can only name installed tools"),
        ("tools = ['tools.py:look']", 3, "can only name installed tools"),
        ("model = 'replay:run.jsonl'", 3, "cannot choose a replay"),
        ("schema = 'evil:Type'", 2, "names a file or a type"),
        ("schema = 'evil.py:Type'", 2, "names a file or a type"),
        ("schema_multi = ' ./evil.json '", 2, "names a file or a type"),
        ("schema = '/dev/stdin'", 2, "names a file or a type"),
        ("yes = true", 3, "unknown key 'yes'"),
        ("allow = ['bash']", 3, "unknown key 'allow'"),
    ],
)
def test_templates_of_a_project_are_data(
    cli: Cli, project: Write, text: str, code: int, message: str
) -> None:
    """They name neither code nor files, and grant nothing. Nothing is imported."""
    for name in ("tools.py", "evil.py"):
        cli.file(name, "open('imported', 'w')\n")
    project("t.toml", f"{text}\nprompt = 'Hi'\n")
    done = cli("run", "-p", "t", TINYAGENT_MODEL="demo")
    assert (code, "") == (done.code, done.out)
    assert message in done.err
    assert not (cli.work / "imported").exists()


def test_a_file_is_no_schema_of_a_project(cli: Cli, project: Write) -> None:
    """A text that is also the name of a file means fields."""
    cli.file("name", '{"type": "integer"}')
    project("t.toml", 'model = "demo"\nschema = "name"\nprompt = "name=Ada"\n')
    assert '{"name":"Ada"}\n' == cli("run", "-p", "t").out


def test_links_are_refused(cli: Cli, project: Write) -> None:
    """A project cannot have the text of another file sent to the model."""
    secret = cli.file("secret", "the secret")
    path = project("t.md", "")
    path.unlink()
    path.symlink_to(secret)
    done = cli("run", "-m", "demo", "-p", "t", "Hi")
    assert (3, "") == (done.code, done.out)
    assert "symbolic link" in done.err
    outside = cli.home.parent / "outside"
    path.unlink()
    path.parent.rename(outside)
    path.parent.symlink_to(outside)
    (outside / "t.md").write_text("the secret")
    assert 3 == cli("run", "-m", "demo", "-p", "t", "Hi").code
    assert "the secret" not in cli("templates", "list", "--json").out


def test_a_template_that_others_can_write_is_refused(cli: Cli, user: Write) -> None:
    """As for configuration files."""
    user("t.md", "Hi").chmod(0o666)
    done = cli("run", "-m", "demo", "-p", "t")
    assert 3 == done.code
    assert "so it is not used" in done.err


# ---- tinyagent templates --------------------------------------------------------------------------------


def test_list_and_show(cli: Cli, user: Write, project: Write) -> None:
    """The list has the variables and the description, and as JSON all keys."""
    done = cli("templates", "list")
    assert (0, "") == (done.code, done.out)
    assert "There are no templates in" in done.err
    assert "[]\n" == cli("templates", "list", "--json").out
    user("ask.md", ASK)
    user("notes.txt", "no template")
    project("people.toml", 'schema = "name"\nprompt = "{{ stdin }}"\n')
    assert (
        "ask     user     language, count, topic  Ask about a text\npeople  project  stdin\n"
        == cli("templates", "list").out
    )
    first, second = json.loads(cli("templates", "list", "--json").out)
    assert {
        "name": "ask",
        "path": str(cli.home / "templates" / "ask.md"),
        "source": "user",
        "hidden": False,
        "problem": None,
        "description": "Ask about a text",
        "model": "local/m",
        "system": "Speak {{ language }}.",
        "tools": ["calc"],
        "prompt": 'In {{language}}, {{ count }} facts about {{ topic }} {{ "{{" }}.',
        "variables": ["language", "count", "topic"],
        "defaults": {"language": "English", "count": 3},
    } == first
    assert ("project", "name") == (second["source"], second["schema"])
    assert (0, ASK, "") == cli("templates", "show", "ask")
    assert f"{cli.home}/templates\n" == cli("templates", "path").out
    assert f"{cli.work}/.tinyagent/templates/people.toml\n" == cli("templates", "path", "people").out
    assert 2 == cli("templates", "show", "nothing").code


def test_hostile_templates_on_a_terminal(cli: Cli, project: Write) -> None:
    """Control characters in a template do not reach the terminal."""
    project("t.md", "+++\ndescription = 'a\\u001b[2Jb'\n+++\nc\x1b[2Jd".replace("'", '"'))
    for command in ("list", "show"):
        terminal = cli.on_terminal("templates", command, *(["t"] if command == "show" else []))
        assert 0 == terminal.end()
        assert b"\x1b[2J" not in terminal.shown


def editor(cli: Cli, text: str) -> str:
    """Write an editor that replaces the file."""
    path = cli.file("editor", f"#!/bin/sh\ncat > \"$1\" <<'END'\n{text}\nEND\n")
    path.chmod(0o755)
    return str(path)


def test_edit(cli: Cli, user: Write) -> None:
    """A template is opened in the editor; without one, a new file is written."""
    new = cli.home / "templates" / "new.md"
    done = cli("templates", "edit", "new", EDITOR="true")
    assert 0 == done.code
    assert "there is no new template" in done.err
    assert not new.exists()
    done = cli("templates", "edit", "new", EDITOR=editor(cli, "Hello {{ who }}."))
    assert 0 == done.code, done.err
    assert f"The template is in {new}. To use it: tinyagent run -p new\n" == done.err
    assert "Hello {{ who }}.\n" == new.read_text()
    done = cli("templates", "edit", "new", EDITOR=editor(cli, "Changed."))
    assert (0, "Changed.\n") == (done.code, new.read_text())
    done = cli("templates", "edit", "--project", "other.toml", EDITOR=editor(cli, 'prompt = "x"'))
    assert (0, 'prompt = "x"\n') == (
        done.code,
        (cli.work / ".tinyagent/templates/other.toml").read_text(),
    )


def test_what_cannot_be_edited(cli: Cli) -> None:
    """A wrong name, a wrong text, and no editor are errors."""
    assert 2 == cli("templates", "edit", "../x", EDITOR="true").code
    done = cli("templates", "edit", "x.toml", EDITOR=editor(cli, "prompt = 1"))
    assert 3 == done.code
    assert "prompt: expected text" in done.err
    done = cli("templates", "edit", "z", EDITOR="no-such-editor")
    assert (2, True) == (done.code, "cannot be used: no-such-editor: No such file" in done.err), done.err
    done = cli("templates", "edit", "y", EDITOR="", VISUAL="")
    assert 2 == done.code
    assert f"Write the file yourself: {cli.home}/templates/y.md" in done.err


def test_the_new_template_is_valid(cli: Cli) -> None:
    """The text that the editor shows first can be used as it is."""
    for name in ("a.md", "b.toml"):
        path = cli.file("editor", '#!/bin/sh\necho >> "$1"\n')
        path.chmod(0o755)
        done = cli("templates", "edit", name, EDITOR=str(path))
        assert 0 == done.code, done.err
        done = cli("run", "-m", "demo", "-p", name[0], stdin=b"A text.")
        assert done.out.startswith("You said: Summarise this text in English: A text.\n")


def test_completion(cli: Cli, user: Write, project: Write) -> None:
    """Names and variables are completed; a malformed template is no error."""
    user("ask.md", ASK)
    project("also.md", "x")
    project("bad.md", "{{ x y }}")

    def offered(line: str) -> list[str]:
        words = line.split(" ")
        done = cli(_TINYAGENT_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
        assert (0, "") == (done.code, done.err)
        return [line.partition(",")[2] for line in done.out.splitlines() if line]

    assert ["also", "ask"] == offered("tinyagent run -p a")
    assert ["also", "ask", "bad"] == offered("tinyagent templates show ")
    assert ["language=", "count=", "topic="] == offered("tinyagent run -p ask -P ")
    assert ["topic="] == offered("tinyagent run -p ask -P t")
    assert [] == offered("tinyagent run -p bad -P ")
    assert [] == offered("tinyagent run -P ")
