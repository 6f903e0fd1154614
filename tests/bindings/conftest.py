"""The Rust provider as `make test` built it, unpacked beside the environment of the tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = ROOT / "build" / "alchemy" / "site"
HOW = "the Rust provider is not built: `make test` builds it where cargo is installed"

# For the whole session: a native module is loaded once. The tests that want it missing hide it themselves.
if (SITE / "alchemy_llm_py").is_dir() and str(SITE) not in sys.path:
    sys.path.append(str(SITE))


@pytest.fixture(autouse=True)
def built() -> None:
    """Skip without the wheel; in CI that is a failure."""
    if not (SITE / "alchemy_llm_py").is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(HOW)
        pytest.skip(HOW)
