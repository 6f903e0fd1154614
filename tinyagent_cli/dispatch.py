"""Find and run the command, report every error, and return the exit code.

`exit_codes.describe` makes the message for standard error and the exit code. Only -vv prints a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .app_context import AppContext

__all__ = ["dispatch"]


def dispatch(args: Sequence[str]) -> int:
    """Run the command that `args` name. Return the exit code.

    Raises:
        BaseException: The installation of tinyagent is broken.
    """
    app = AppContext(args)
    try:
        return _run(app)
    except BaseException as error:  # noqa: BLE001 - this is the boundary
        return _report(error, app)


def _run(app: AppContext) -> int:
    from click.exceptions import Exit

    from .app import root
    from .config.environment import variable
    from .shell_completion import COMPLETION_VARIABLE

    completion = variable(COMPLETION_VARIABLE)
    if completion:
        from click.shell_completion import shell_complete

        from .completion_scripts import register

        register()
        return shell_complete(root, {"obj": app}, "tinyagent", COMPLETION_VARIABLE, completion)
    if sys.stdout is None:
        from .exit_codes import InputError

        raise InputError("Standard output is closed.", hint="Redirect it: > /dev/null")
    try:
        with root.make_context("tinyagent", list(app.args), obj=app) as context:
            code = root.invoke(context)
    except Exit as ended:  # --help, --version
        return ended.exit_code
    return code if isinstance(code, int) else 0


def _report(error: BaseException, app: AppContext) -> int:
    from .exit_codes import HELP, STOPPED, describe

    failure = describe(error)
    if failure.kind == "internal":
        from .plugins.namesake import fault

        if fault() is not None:
            raise error  # not a defect: `main` reports the broken installation
    has_failed = failure.exit_code and failure.kind != HELP and not isinstance(error, SystemExit)
    if app.verbosity > 1 and has_failed:
        app.traceback(error)
    if failure.kind in (*STOPPED, HELP):  # not an error: the user's wish, or how to go on
        app.show("\n".join(filter(None, (failure.message, failure.hint))))
    elif failure.message and not failure.silent:
        app.error(failure.message, failure.hint)
    return failure.exit_code
