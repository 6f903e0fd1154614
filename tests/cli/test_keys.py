"""`tinyagent keys` stores the keys of providers, in keys.toml or in the keyring of the system."""

from __future__ import annotations

import json
import stat
import tomllib

import pytest

from .conftest import Cli, FakeReply, Serve
from .test_shell_completion import offered

KEY = "sk-test-CANARY"
KEYRING = """
import json
from pathlib import Path
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked

class FileKeyring(KeyringBackend):
    priority = 1
    path = Path(__file__).with_name("passwords.json")

    def _all(self):
        if self.path.with_name("locked").exists():
            raise KeyringLocked("the keyring is locked")
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def get_password(self, service, username):
        return self._all().get(f"{service} {username}")

    def set_password(self, service, username, password):
        self.path.write_text(json.dumps({**self._all(), f"{service} {username}": password}))

    def delete_password(self, service, username):
        kept = self._all()
        del kept[f"{service} {username}"]
        self.path.write_text(json.dumps(kept))
"""
"""A backend of the package `keyring`, as a third party writes one."""


def stored(cli: Cli) -> dict[str, object]:
    """Return what is in keys.toml."""
    return tomllib.loads((cli.home / "keys.toml").read_text())


def with_keyring(cli: Cli, config: str = "") -> dict[str, str]:
    """Choose the keyring. Return the environment that selects the backend."""
    cli.config(f'{config}\n[keys]\nstore = "keyring"\n')
    site = cli.work.parent / "ring"
    site.mkdir()
    (site / "filering.py").write_text(KEYRING)
    cli.path.append(str(site))
    return {"PYTHON_KEYRING_BACKEND": "filering.FileKeyring"}


def test_a_key_from_a_pipe_is_stored_and_used(cli: Cli, serve: Serve) -> None:
    """The file and its directory are private, white space is removed, and a run sends the key."""
    server = serve(FakeReply.text("ok"), more='api_key_env = "LOCAL_KEY"\n')
    done = cli("keys", "set", "local", stdin=f"  {KEY}\r\n".encode())
    assert (0, "", f"The key of 'local' is stored in {cli.home}/keys.toml.\n") == done
    assert {"local": KEY} == stored(cli)
    assert 0o600 == stat.S_IMODE((cli.home / "keys.toml").stat().st_mode)
    assert (0, "ok\n") == cli("run", "-m", "local/m", "Hi")[:2]
    assert f"Bearer {KEY}" == server.requests[0].headers["authorization"]


def test_a_new_directory_is_private(cli: Cli) -> None:
    """The directory of the file is made with mode 0700."""
    assert 0 == cli("keys", "set", "openai", stdin=KEY.encode()).code
    assert 0o700 == stat.S_IMODE(cli.home.stat().st_mode)


def test_a_key_is_asked_for_without_echo(cli: Cli) -> None:
    """On a terminal the key is typed, and not shown."""
    terminal = cli.on_terminal("keys", "set", "openai")
    terminal.expect("Key for openai (not shown)")
    terminal.type(f"{KEY}\n")
    assert 0 == terminal.end()
    assert b"CANARY" not in terminal.shown
    assert {"openai": KEY} == stored(cli)


def test_ctrl_c_stores_nothing(cli: Cli) -> None:
    """An interrupted question exits with 130."""
    terminal = cli.on_terminal("keys", "set", "openai")
    terminal.expect("Key for openai")
    terminal.type("sk-test-half\x03")
    assert 130 == terminal.end()
    assert not (cli.home / "keys.toml").exists()


@pytest.mark.parametrize(
    ("stdin", "words"),
    [
        (b"", "no key on standard input"),
        (b" \n", "no key on standard input"),
        (f"{KEY}\nsecond-CANARY".encode(), "2 lines"),
        (b"sk-test-CANARY more", "spaces"),
        (b"sk-CANARY-\xc3\xa9", "non-ASCII"),
        (b"sk-CANARY\xff", "not UTF-8"),
        (b"sk-CANARY" * 10_000, "longer than"),
    ],
)
def test_what_is_no_key_is_refused_unseen(cli: Cli, stdin: bytes, words: str) -> None:
    """The message says what is wrong without the key, and nothing is stored."""
    done = cli("keys", "set", "openai", "-vv", stdin=stdin)
    assert done.code in (2, 3)
    assert words in done.err
    assert "CANARY" not in done.err
    assert not (cli.home / "keys.toml").exists()


def test_a_key_is_not_an_argument(cli: Cli) -> None:
    """A key in the arguments is refused, and the message does not repeat it."""
    done = cli("keys", "set", "openai", "CANARYq7w8e9r0")
    assert 2 == done.code
    assert "not an argument" in done.err
    assert "CANARY" not in done.err
    assert "CANARY" not in cli("keys", "set", "CANARYq7w8e9r0t1y2u3i4o5p6a7s8d9f0").err


def test_an_unknown_provider_is_refused(cli: Cli) -> None:
    """A typo suggests the provider; configured and installed providers are known."""
    done = cli("keys", "set", "opnai", stdin=KEY.encode())
    assert (2, True) == (done.code, "Did you mean 'openai'?" in done.err)
    cli.install("acme", "raise RuntimeError('imported')", "providers")
    cli.config('[providers.mine]\nbase_url = "http://127.0.0.1:1/v1"\n')
    for name in ("acme", "mine"):
        assert 0 == cli("keys", "set", name, stdin=KEY.encode()).code
    assert {"acme": KEY, "mine": KEY} == stored(cli)


def test_the_list_has_names_and_sources_only(cli: Cli) -> None:
    """The list shows where each key comes from, and which one is not used."""
    assert (0, "") == cli("keys", "list")[:2]
    for name in ("openai", "groq"):
        assert 0 == cli("keys", "set", name, stdin=KEY.encode()).code
    with (cli.home / "keys.toml").open("a") as file:
        file.write(f'gone = "{KEY}"\n')
    environment = {"GROQ_API_KEY": "gsk-test-CANARY", "XAI_API_KEY": "xai-test-CANARY"}
    done = cli("keys", "list", "--json", **environment)
    path = str(cli.home / "keys.toml")
    assert [
        {"name": "gone", "from": path, "note": "not used: there is no such provider"},
        {"name": "groq", "from": "GROQ_API_KEY", "note": f"also in {path}, which is not used"},
        {"name": "openai", "from": path, "note": ""},
        {"name": "xai", "from": "XAI_API_KEY", "note": ""},
    ] == json.loads(done.out)
    table = cli("keys", "list", **environment)
    assert f"openai  {path}" in table.out.splitlines()
    assert "CANARY" not in done.out + done.err + table.out + table.err
    assert (0, f"{path}\n", "") == cli("keys", "path")


def test_keys_are_removed_and_comments_stay(cli: Cli) -> None:
    """Removing changes one line. A key that is not stored is an error; the others are removed."""
    assert 0 == cli("keys", "set", "openai", stdin=KEY.encode()).code
    path = cli.home / "keys.toml"
    path.write_text(f'# work\ngroq = "{KEY}"  # old\n{path.read_text()}')
    assert ["groq"] == offered(cli, "tinyagent keys remove g")
    done = cli("keys", "remove", "openai", "xai", OPENAI_API_KEY="sk-test-1")
    assert 2 == done.code
    assert "no stored key for 'xai'" in done.err
    assert "OPENAI_API_KEY is still set." in done.err
    assert f'# work\ngroq = "{KEY}"  # old\n' == path.read_text()


@pytest.mark.parametrize("command", ["set", "list", "remove"])
def test_a_file_that_others_can_read_is_refused(cli: Cli, command: str) -> None:
    """Nothing is read from it or added to it; the message shows the command that repairs it."""
    assert 0 == cli("keys", "set", "openai", stdin=KEY.encode()).code
    path = cli.home / "keys.toml"
    path.chmod(0o644)
    done = cli("keys", command, *(() if command == "list" else ("openai",)), stdin=b"sk-test-new")
    assert (3, True) == (done.code, f"chmod 600 {path}" in done.err)
    assert {"openai": KEY} == stored(cli)


@pytest.mark.parametrize("text", ["openai = [", f'openai = ["{KEY}"]', KEY])
def test_a_malformed_file_is_not_changed(cli: Cli, text: str) -> None:
    """The message names the file, not its content."""
    cli.home.mkdir()
    path = cli.home / "keys.toml"
    path.write_text(text)
    path.chmod(0o600)
    done = cli("keys", "set", "openai" if text == KEY else "groq", "-vv", stdin=b"sk-test-new")
    assert 3 == done.code
    assert str(path) in done.err
    assert "CANARY" not in done.err
    assert text == path.read_text()


def test_parallel_commands_lose_no_key(cli: Cli) -> None:
    """The file is locked while it is changed."""
    names = ("openai", "groq", "xai", "mistral", "zai", "cerebras")
    done = cli.shell("".join(f"echo {KEY} | $T keys set {name} & " for name in names) + "wait")
    assert 0 == done.code, done.err
    assert dict.fromkeys(names, KEY) == stored(cli)


@pytest.mark.usefixtures("new_processes")
def test_a_full_disk_keeps_the_old_file(cli: Cli) -> None:
    """A file that cannot be written is an error, the old one stays, and no temporary file is left."""
    assert 0 == cli("keys", "set", "openai", stdin=KEY.encode()).code
    done = cli.shell("ulimit -f 0; export PYTHONDONTWRITEBYTECODE=1; echo sk-test-new | $T keys set groq")
    assert 3 == done.code
    assert f"{cli.home / 'keys.toml'} cannot be written: File too large." in done.err
    assert {"openai": KEY} == stored(cli)
    assert {"keys.toml", "keys.lock"} == {path.name for path in cli.home.iterdir()}


@pytest.mark.usefixtures("pip")
def test_a_missing_key_says_how_to_store_it(cli: Cli) -> None:
    """`run` and `doctor` name the command, and use the key that it stores."""
    assert "tinyagent keys set openai" in cli("run", "-m", "openai/m", "Hi").err
    assert "tinyagent keys set" in cli("run", "Hi").err
    openai = {"TINYAGENT_MODEL": "openai/m", "TINYAGENT_PLUGINS": ""}  # Examining plugins takes seconds.
    assert "tinyagent keys set openai" in cli("doctor", "--offline", **openai).out
    assert 0 == cli("keys", "set", "openai", stdin=KEY.encode()).code
    assert "because a key of openai is set" in cli("run", "-O", "x", "Hi").err
    place = f"stored in {cli.home / 'keys.toml'}"
    assert place in cli("doctor", "--offline", **openai).out
    assert place in cli("models", "list").out


def test_a_refused_key_says_where_it_is_from(cli: Cli, serve: Serve) -> None:
    """A stored key can be replaced by the command; a variable takes precedence."""
    serve(FakeReply.error(401, "no"), FakeReply.error(401, "no"), more='api_key_env = "LOCAL_KEY"\n')
    assert 0 == cli("keys", "set", "local", stdin=KEY.encode()).code
    done = cli("run", "-m", "local/m", "Hi")
    assert (3, True) == (done.code, "To store another one: tinyagent keys set local" in done.err)
    assert "the value of LOCAL_KEY" in cli("run", "-m", "local/m", "Hi", LOCAL_KEY="sk-test-2").err


def test_the_keyring_is_used_if_the_user_chooses_it(cli: Cli, serve: Serve) -> None:
    """A key moves from the file to the keyring when it is set again, is sent, listed and removed."""
    server = serve(FakeReply.text("ok"), more='api_key_env = "LOCAL_KEY"\n')
    assert 0 == cli("keys", "set", "local", stdin=b"sk-test-old").code
    ring = with_keyring(cli, (cli.home / "config.toml").read_text())
    done = cli("keys", "set", "local", stdin=KEY.encode(), **ring)
    assert (0, True) == (done.code, "stored in the keyring" in done.err)
    assert {} == stored(cli)
    assert 0 == cli("run", "-m", "local/m", "Hi", **ring).code
    assert f"Bearer {KEY}" == server.requests[0].headers["authorization"]
    listed = json.loads(cli("keys", "list", "--json", **ring).out)
    assert [{"name": "local", "from": "the keyring", "note": ""}] == listed
    assert "from the keyring" in cli("keys", "remove", "local", **ring).err
    assert 2 == cli("keys", "remove", "local", **ring).code


def test_a_keyring_that_cannot_be_used(cli: Cli) -> None:
    """A locked keyring and a missing package are errors that say what to do; the file is not used instead."""
    ring = with_keyring(cli)
    locked = cli.work.parent / "ring" / "locked"
    locked.touch()
    done = cli("keys", "set", "openai", stdin=KEY.encode(), **ring)
    assert (3, True) == (done.code, "the keyring is locked" in done.err)
    assert "tinyagent config set keys.store file" in done.err
    assert 3 == cli("run", "-m", "openai/m", "Hi", **ring).code
    nothing = {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
    for args in (["keys", "list"], ["keys", "set", "openai"], ["run", "-m", "openai/m", "Hi"]):
        done = cli(*args, stdin=KEY.encode(), **nothing)
        assert (3, True) == (done.code, "no keyring that can be used" in done.err)
    (cli.work.parent / "ring" / "keyring.py").write_text("raise ImportError")
    done = cli("keys", "set", "openai", stdin=KEY.encode(), **ring)
    assert (3, True) == (done.code, "pip install 'tinyagent-core[keyring]'" in done.err)
    assert not (cli.home / "keys.toml").exists()
