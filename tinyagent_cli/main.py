"""The entry point of the process. Importing this module makes Ctrl-C exit at once, without a traceback.

Therefore only the script `tinyagent` and `python -m tinyagent_cli` import it. Other code uses `dispatch`.
"""

from __future__ import annotations

# Not `signal`: it imports `enum`, which takes 5 ms.
import _signal  # type: ignore[import-not-found]
import os
import sys

TYPE_CHECKING = False  # importing typing would take longer than the rest of --version
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

INTERRUPTED = 128 + _signal.SIGINT


def _exit_on_sigint(code: int) -> None:
    """Exit on Ctrl-C at once: until a command handles it, there is nothing to clean up."""

    def handler(signum: int, frame: object) -> None:
        os._exit(code)

    if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, handler)


_exit_on_sigint(INTERRUPTED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Return the exit code, which the caller must pass to `sys.exit` at once."""
    import gc

    from .run.garbage import postpone_collection
    from .run.process_exit import exit_after_atexit

    exit_after_atexit()
    postpone_collection()
    _open_closed_descriptors()
    from .terminal.standard_output import flush, guard

    guard()
    args = list(sys.argv[1:] if argv is None else argv)
    if args == ["--version"] and sys.stdout is not None:
        from .version import version

        return flush(0, f"tinyagent {version()}\n")
    try:
        from .dispatch import dispatch

        code = flush(dispatch(args))
    except Exception as error:  # noqa: BLE001 - the library that reports errors may itself be broken
        code = flush(_report_broken(error))
    except KeyboardInterrupt:  # a second one, while the first one is reported
        os._exit(INTERRUPTED)
    gc.freeze()  # no collection at exit
    if "tinyagent_cli.plugins.loading" in sys.modules:
        from .run.process_exit import limit_exit

        limit_exit(code)
    _exit_on_sigint(code)
    return code


def _report_broken(error: Exception) -> int:
    """Report a broken installation of tinyagent. Return the exit code."""
    from .plugins.namesake import fault

    if sys.platform == "win32":
        found = (
            "The command line of tinyagent does not run on Windows.",
            "Use it in the Windows Subsystem for Linux (WSL).",
        )
    else:
        found = fault()
    message, hint = found or (
        f"tinyagent cannot be loaded: {type(error).__name__}: {error}",
        "Install it again, with its dependencies: pip install --force-reinstall tinyagent-core",
    )
    if sys.stderr is not None:
        sys.stderr.write(f"Error: {message}\n{hint}\n")
    return 3


def _open_closed_descriptors() -> None:
    """Open /dev/null in place of closed standard streams, so that no other file gets their numbers."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(fd, True)
