"""The output of failed installers is recognised."""

from __future__ import annotations

import pytest

from tinyagent_cli.plugins.installer_errors import explain

PRINTED = [
    (
        "ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/usr/lib/x.py'\n"
        "Consider using the `--user` option or check the permissions.",
        "the environment is not writable",
    ),
    ("error: failed to create directory `/opt/x`: Permission denied (os error 13)", "is not writable"),
    ("error: Failed to install: x\n  cause: Read-only file system (os error 30)", "is not writable"),
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is"),
    (
        "WARNING: Retrying (Retry(total=0)) after connection broken by 'SSLError(SSLCertVerificationError(1, "
        "'[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed'))': /simple/sunny/\n"
        "ERROR: No matching distribution found for sunny",
        "the certificate of the package index is not trusted",
    ),
    (
        "error: Failed to fetch: `https://127.0.0.1/simple/sunny/`\n  cause: invalid peer certificate: "
        "UnknownIssuer",
        "the certificate of the package index is not trusted",
    ),
    (
        "ERROR: HTTP error 403 while getting https://127.0.0.1/x.whl\nERROR: 403 Client Error: Forbidden for "
        "url: https://127.0.0.1/x.whl",
        "refuses access",
    ),
    (
        "error: Failed to fetch: `https://127.0.0.1/simple/x/`\n  cause: HTTP status client error (401 "
        "Unauthorized) for url (https://127.0.0.1/simple/x/)",
        "refuses access",
    ),
    (
        "error: The interpreter at /usr is externally managed, and indicates the following:\n\n  To install",
        "managed by the operating system",
    ),
    (
        "ERROR: Ignored the following versions that require a different python version: 1.0 Requires-Python "
        ">=3.99\nERROR: Could not find a version that satisfies the requirement sunny (from versions: none)\n"
        "ERROR: No matching distribution found for sunny",
        "does not support this Python",
    ),
    (
        "ERROR: Could not find a version that satisfies the requirement tinyagent-core>=5 (from sunny) (from "
        "versions: 0.1.0)\nERROR: No matching distribution found for tinyagent-core>=5",
        "it needs tinyagent-core>=5",
    ),
    ("/usr/bin/python3: No module named pip", "this Python has no pip"),
    # Words of pip 23.2, where those of the pip in tests/plugins/test_installers.py differ.
    (
        "ERROR: Could not find a version that satisfies the requirement nowhere>=1 (from sunny) (from "
        "versions: none)\nERROR: No matching distribution found for nowhere>=1",
        "no distribution nowhere",
    ),
    (
        "ERROR: Cannot install sunny==1.0 and tinyagent-core==0.1.0 because these package versions have "
        "conflicting dependencies.\n\nThe conflict is caused by:\n    The user requested "
        "tinyagent-core==0.1.0\n    sunny 1.0 depends on tinyagent-core>=5\n",
        "it needs tinyagent-core",
    ),
    (
        "ERROR: Invalid requirement: './sunny'\nHint: It looks like a path. File './sunny' does not exist.",
        "no such file or folder",
    ),
    (
        "ERROR: Exception:\nTraceback (most recent call last):\n"
        "pip._vendor.pyproject_hooks._impl.BackendUnavailable: Traceback (most recent call last):\n"
        "ModuleNotFoundError: No module named 'no_such_backend'",
        "its build failed",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("printed", "reason"), PRINTED)
def test_the_cause_is_recognised(printed: str, reason: str) -> None:
    """A known failure gives a reason in plain English, and a hint."""
    found = explain(printed, ["sunny"], "pip install --upgrade tinyagent-core")
    assert found is not None
    assert reason in found[0]
    assert "{" not in found[0] + found[1]


@pytest.mark.parametrize("printed", ["", "Something new went wrong.", "Found existing installation: x 401"])
def test_what_is_not_recognised_is_not_guessed(printed: str) -> None:
    """For an unknown failure, the installer's own message must do."""
    assert None is explain(printed, ["sunny"], "")


def test_names_with_braces_do_no_harm() -> None:
    """Braces in a requirement are not a format."""
    found = explain("ERROR: No matching distribution found for {0.__class__}", ["{x}"], "")
    assert found is not None
    assert "no distribution {0.__class__} was found" == found[0]
