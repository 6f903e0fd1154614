"""Warnings of the library and of plugins, which come through `logging`, on standard error like our own."""

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
    """Show what the logger `tinyagent` and those below it warn of, as the current command is told to."""
    context = click.get_current_context(silent=True)
    app = context.obj if context is not None else None
    if isinstance(app, AppContext):
        logger = logging.getLogger("tinyagent")
        for handler in [one for one in logger.handlers if isinstance(one, _Handler)]:
            logger.removeHandler(handler)
        logger.addHandler(_Handler(app))
