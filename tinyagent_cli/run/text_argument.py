"""Text arguments. Unlike file names, they must be valid text."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

__all__ = ["TextArgument"]

if TYPE_CHECKING:
    _ParamType = click.ParamType[str]
else:
    _ParamType = click.ParamType  # generic only in newer versions


class TextArgument(_ParamType):
    """Text in UTF-8 in every locale, like standard input. Invalid bytes are a usage error.

    Python decodes arguments by the locale, and represents invalid bytes as surrogates. Under LC_ALL=C these
    are all bytes above 0x7f. Text that Python decoded by a locale with another encoding is used unchanged.

    Args:
        path_prefix: Text with this prefix is a path, and is used unchanged.
    """

    name = "text"

    def __init__(self, path_prefix: str | None = None) -> None:
        self._path_prefix = path_prefix

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if self._path_prefix is not None and text.startswith(self._path_prefix):
            return text
        try:
            data = os.fsencode(text)
        except UnicodeEncodeError:
            return text  # not from the command line of this process
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            if not any("\udc80" <= character <= "\udcff" for character in text):
                return text
            self.fail(
                f"byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8 text.", param, ctx
            )
