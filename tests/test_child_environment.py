"""What a program that a tool starts gets to see of our environment."""

from __future__ import annotations

from tinyagent.child_environment import child_environment

SECRET = "sk-test-CANARY"


def test_what_programs_need_is_passed_on() -> None:
    """Paths, language, proxies, and names that are asked for; nothing else."""
    given = {"PATH": "/bin", "LC_ALL": "C", "https_proxy": "http://proxy:8080", "MINE": "1", "OTHER": "2"}
    kept = child_environment(given, ["MINE"])
    assert {name: given[name] for name in ("PATH", "LC_ALL", "https_proxy", "MINE")} == kept


def test_secrets_are_left_out() -> None:
    """By their names, even where they are asked for; credentials in a URL; copies in other variables."""
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
