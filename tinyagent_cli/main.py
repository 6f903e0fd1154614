"""The entry point: `--version` with hardly an import, and the one error boundary.

Whatever a command raises ends here: `failures.describe` says what it means, it is printed on standard
error, and its exit code is the process's. A traceback is printed with -vv only.
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False  # importing typing would take longer than the rest of --version
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .app_context import AppContext

__all__ = ["main"]

COMPLETION_VARIABLE = "_TINYAGENT_COMPLETE"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    # Modules and their objects stay: looking through them for garbage, again and again while they are
    # imported and once more at the end, would be a tenth of a short run.
    gc.set_threshold(20_000, 20, 20)
    args = list(sys.argv[1:] if argv is None else argv)
    if args == ["--version"]:
        from .version import version

        sys.stdout.write(f"tinyagent {version()}\n")
        return _flush(0)
    from .app_context import AppContext

    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")  # as for standard error: no encoding makes a command fail
    app = AppContext(args)
    try:
        code = _dispatch(app)
    except BaseException as error:  # noqa: BLE001 - this is the boundary
        code = _report(error, app)
    gc.freeze()
    return _flush(code)


def _dispatch(app: AppContext) -> int:
    from click.exceptions import Exit

    from . import settings
    from .root import root

    completion = settings.variable(COMPLETION_VARIABLE)
    if completion:
        from click.shell_completion import shell_complete

        return shell_complete(root, {"obj": app}, "tinyagent", COMPLETION_VARIABLE, completion)
    try:
        with root.make_context("tinyagent", list(app.args), obj=app) as context:
            code = root.invoke(context)
    except Exit as ended:  # --help, --version
        return ended.exit_code
    return code if isinstance(code, int) else 0


def _report(error: BaseException, app: AppContext) -> int:
    from .failures import describe

    failure = describe(error)
    if app.verbosity > 1 and failure.exit_code and not isinstance(error, SystemExit):
        app.traceback(error)
    if failure.message and not failure.silent:
        app.error(failure.message, failure.hint)
    return failure.exit_code


def _flush(code: int) -> int:
    """Flush the standard streams here, where a reader that has gone away can still be told from success."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            # Python would try again at exit, and complain; what is left goes nowhere.
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, stream.fileno())
            if stream is sys.stdout and code == 0 and not isinstance(error, BrokenPipeError):
                sys.stderr.write(f"Error: cannot write to standard output: {error}\n")
                code = 1
    return code
