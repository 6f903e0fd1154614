"""Snapshots that are JSON lines: the snapshot of a run is its wire format, and it differs line by line.

from tests._jsonl_snapshot import snapshot_jsonl
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from tinyagent import jsonl

NOW = 1_700_000_000_000


class JsonlSnapshotExtension(SingleFileSnapshotExtension):
    """One file a snapshot, the events as lines."""

    _write_mode = WriteMode.TEXT
    file_extension = "jsonl"

    def serialize(self, data: Any, **_: Any) -> str:
        return b"".join(jsonl.write(data, clock=lambda: NOW)).decode()


@pytest.fixture
def snapshot_jsonl(snapshot: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compares a list of events with the lines of a file; the wall clock stands still meanwhile."""
    monkeypatch.setattr(time, "time_ns", lambda: NOW * 1_000_000)
    return snapshot.use_extension(JsonlSnapshotExtension)
