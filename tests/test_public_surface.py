"""The public surface as snapshots, so that every change is visible in the diff."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension

import tinyagent
from tinyagent import (
    child_environment,
    hookspecs,
    interaction,
    jsonl,
    reply_builder,
    request_limits,
    sandbox,
    supervisor,
    testing,
    text_files,
    toml_files,
    tool_sandbox,
    tools,
)
from tinyagent.testing import pytest_plugin


@pytest.fixture
def stored(snapshot: SnapshotAssertion) -> Any:
    """Use one JSON file per snapshot."""
    return snapshot.use_extension(JSONSnapshotExtension)


def test_names(stored: Any) -> None:
    """The names of `tinyagent`, of its public modules for plugins, and of the fixtures."""
    modules = (
        tinyagent,
        testing,
        text_files,
        toml_files,
        child_environment,
        interaction,
        supervisor,
        sandbox,
        tool_sandbox,
        tools,
        pytest_plugin,
        request_limits,
        reply_builder,
    )
    assert stored == {module.__name__: sorted(module.__all__) for module in modules}


def test_hook_signatures(stored: Any) -> None:
    """The hooks with their arguments and return types."""
    assert stored == {
        name: str(inspect.signature(value))
        for name, value in sorted(vars(hookspecs).items())
        if name.startswith("tinyagent_")
    }


def test_jsonl_schema(stored: Any) -> None:
    """The JSON Schema of the lines, as printed by `tinyagent schema events`."""
    assert stored == jsonl.schema()
