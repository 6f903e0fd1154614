"""The environment of programs that tools start."""

from __future__ import annotations

from tinyagent.child_environment import child_environment

SECRET = "sk-test-CANARY"


def test_common_variables_are_passed_on() -> None:
    """Only paths, language, proxies and requested names are passed on."""
    given = {"PATH": "/bin", "LC_ALL": "C", "https_proxy": "http://proxy:8080", "MINE": "1", "OTHER": "2"}
    kept = child_environment(given, ["MINE"])
    assert {name: given[name] for name in ("PATH", "LC_ALL", "https_proxy", "MINE")} == kept


def test_secrets_are_omitted() -> None:
    """Requested secrets, credentials in URLs and copies in other variables are omitted."""
    given = {
        "OPENAI_API_KEY": SECRET,
        "GITHUB_TOKEN": SECRET,
        "MY_PASSWORD": SECRET,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "HTTP_PROXY": "http://me:word@proxy:8080",
        "LANG": f"x{SECRET}",
        "HOME": "/home/me",
    }
    assert {"HOME": "/home/me"} == child_environment(given, list(given))
