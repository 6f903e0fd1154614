"""A real cluster with two nodes on loopback. These tests run in the environment .venv-peers-ray.

`make test-heavy` starts them there.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

collect_ignore_glob = ["test_*.py"] if find_spec("ray") is None else []

# nohup and a shell's background jobs ignore Ctrl-C. The batches of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # nodes on loopback


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[Path]:
    """Return the folder of Ray's logs. Its path is short, because it contains sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    (folder / "ray").mkdir()
    os.environ["RAY_TMPDIR"] = str(folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(ray_folder: Path) -> Iterator[Any]:
    """Start the first node, with the dashboard."""
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": 2,
        "include_dashboard": True,
        "dashboard_port": 0,
    }
    running = Cluster(initialize_head=True, head_node_args=head)
    yield running
    running.shutdown()
