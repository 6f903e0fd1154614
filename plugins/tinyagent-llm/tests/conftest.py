"""Real plugins of `llm`, and one of our own. These tests run in the environment .venv-peers-llm.

`make test-heavy` starts them there.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

collect_ignore_glob = ["test_*.py", "plugin_for_tests.py"] if find_spec("llm") is None else []


@pytest.fixture(autouse=True)
def llm_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give llm an empty folder for its keys, aliases and logs."""
    folder = tmp_path / "llm"
    folder.mkdir()
    monkeypatch.setenv("LLM_USER_PATH", str(folder))
    return folder


@pytest.fixture(autouse=True)
def own_plugin() -> Iterator[None]:
    """Register the plugin of the tests."""
    import llm

    from . import plugin_for_tests

    llm.get_models_with_aliases()  # loads the plugins
    llm.pm.register(plugin_for_tests)
    yield
    llm.pm.unregister(plugin_for_tests)
