"""The fixture `snapshot_jsonl` for our own tests: it comes from what we ship.

from tests._jsonl_snapshot import snapshot_jsonl
"""

from tinyagent.testing.pytest_plugin import snapshot_jsonl

__all__ = ["snapshot_jsonl"]
