"""Show warnings that the library and plugins log as warnings of the command."""

from __future__ import annotations

import logging

import click

from tinyagent_cli.app_context import AppContext

__all__ = ["show_warnings"]


class _Handler(logging.Handler):
    def __init__(self, app: AppContext) -> None:
        super().__init__(logging.WARNING)
        self._app = app

    def emit(self, record: logging.LogRecord) -> None:
        self._app.warn(self.format(record))


def show_warnings() -> None:
    """Show warnings of the logger `tinyagent` and its children, with the verbosity of the current command."""
    context = click.get_current_context(silent=True)
    app = context.obj if context is not None else None
    if isinstance(app, AppContext):
        logger = logging.getLogger("tinyagent")
        for handler in list(logger.handlers):
            if isinstance(handler, _Handler):
                logger.removeHandler(handler)
        logger.addHandler(_Handler(app))
