"""Read the items of a batch, one by one: JSON lines, plain lines and tables.

A line that cannot be used is a `BadLine`, and does not stop the rest. An item without an id gets one from the
number of its line, so that it is the same in each command.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, Literal, NamedTuple, TypeAlias

from msgspec.structs import replace

from tinyagent import _json
from tinyagent.agent_types import JsonDict, JsonValue
from tinyagent.executors import BatchItem
from tinyagent.text_files import detect_encoding
from tinyagent_cli.exit_codes import InputError

from .openai_format import is_openai_request, openai_item

__all__ = ["BadLine", "Format", "columns_of", "count_items", "read_items"]

Format: TypeAlias = Literal["jsonl", "lines", "csv", "tsv"]

MAX_LINE = 64 << 20
"""The size limit of a line in bytes; no context window is larger."""

_TEXTS = ("prompt", "system", "model")


class BadLine(NamedTuple):
    """A line without an item: its number, from 1, and the reason."""

    line: int
    reason: str


class _Invalid(Exception):
    """The reason why a line has no item."""


def read_items(
    file: BinaryIO,
    form: Format,
    id_column: str = "id",
    *,
    body_models: bool = True,
    check_columns: Callable[[list[str]], None] | None = None,
) -> Iterator[BatchItem | BadLine]:
    """Yield the items of an open file as they arrive. Blank lines are skipped.

    Args:
        file: The input. It is read line by line.
        form: The format.
        id_column: The field or column with the id.
        body_models: Whether the requests of OpenAI's batch format choose the model.
        check_columns: Gets the columns of a table. It raises if they cannot be used.

    Raises:
        InputError: The columns of a table cannot be used, or the input cannot be read.
    """
    try:
        if form in ("csv", "tsv"):
            yield from _read_table(file, form, id_column, check_columns)
        else:
            yield from _read_lines(file, form, id_column, body_models=body_models)
    except OSError as error:
        raise InputError(f"Cannot read the input: {error.strerror}.") from None


def count_items(file: BinaryIO, form: Format) -> int | None:
    """Return the number of lines with items, and go back to the start; None for a pipe."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return None
    start = file.tell()
    lines = _lines(file)
    number: int | None
    if form in ("csv", "tsv"):
        header = next(lines, b"").decode("utf-8", "replace")
        texts = (line.decode("utf-8", "replace") for line in lines)
        csv.field_size_limit(MAX_LINE)
        rows = csv.reader(texts, delimiter=columns_of(header, form)[0])
        try:
            number = sum(1 for row in rows if row)
        except csv.Error:
            number = None
    else:
        number = sum(1 for line in lines if not line.isspace())
    file.seek(start)
    return number


def _read_lines(
    file: BinaryIO, form: Format, id_column: str, *, body_models: bool
) -> Iterator[BatchItem | BadLine]:
    for number, line in enumerate(_lines(file), 1):
        try:
            if len(line) > MAX_LINE:
                raise _Invalid(f"it has more than {MAX_LINE >> 20} MiB")
            if line.isspace() or not line:
                continue
            if form == "lines":
                yield _plain(line, number)
            else:
                yield _from_json(line, number, id_column, body_models=body_models)
        except _Invalid as error:
            yield BadLine(number, str(error))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines as UTF-8. A line that is too long is cut."""
    first = file.readline(MAX_LINE + 1)
    codec, mark = detect_encoding(first[:4])
    if codec != "utf-8":
        yield from _decoded_lines(file, first, codec)
        return
    line = first[mark:]
    while line:
        yield line
        while len(line) > MAX_LINE and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE)
        line = file.readline(MAX_LINE + 1)


def _decoded_lines(file: BinaryIO, first: bytes, codec: str) -> Iterator[bytes]:
    """Yield the lines of UTF-16 or UTF-32, in which the byte of a line feed does not end a line."""
    decoder = io.IncrementalNewlineDecoder(_incremental(codec), translate=True)
    rest, chunk = "", first
    while chunk:
        *lines, rest = (rest + decoder.decode(chunk)).split("\n")
        yield from (f"{line}\n".removeprefix("\ufeff").encode() for line in lines)
        chunk = file.read(1 << 16)
    if rest:
        yield rest.encode()


def _incremental(codec: str) -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder(codec)("replace")


def _plain(line: bytes, number: int) -> BatchItem:
    return BatchItem(id=_line_id(number), line=number, prompt=_text(line).rstrip("\r\n"))


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _Invalid(f"it is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}") from None


def _line_id(number: int) -> str:
    return f"line-{number}"


# ---- JSON -----------------------------------------------------------------------------------------------


def _from_json(line: bytes, number: int, id_column: str, *, body_models: bool) -> BatchItem:
    try:
        value = _json.decode(line)
    except (ValueError, RecursionError) as error:
        hint = "; if each line is a prompt, use --lines" if number == 1 else ""
        raise _Invalid(f"it is not JSON: {error}{hint}") from None
    if not isinstance(value, dict):
        raise _Invalid("it is not a JSON object")
    if not is_openai_request(value):
        return _item(value, number, id_column)
    try:
        item = openai_item(value, number)
    except ValueError as error:
        raise _Invalid(str(error)) from None
    return item if body_models else replace(item, model=None)


def _item(fields: JsonDict, number: int, id_column: str) -> BatchItem:
    """Return the item of an object. Fields that are not an item's own are its variables."""
    rest = dict(fields)
    found = rest.get(id_column)
    item_id = _id(found, number)
    if id_column == "id":
        rest.pop("id", None)
    texts = {name: _optional_text(name, rest.pop(name, None)) for name in _TEXTS}
    files = rest.pop("files", None) or []
    history = rest.pop("history", None) or []
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise _Invalid("'files' is not a list of paths")
    if not isinstance(history, list) or not all(isinstance(message, dict) for message in history):
        raise _Invalid("'history' is not a list of messages")
    return BatchItem(
        id=item_id,
        line=number,
        prompt=texts["prompt"],
        system=texts["system"],
        model=texts["model"],
        files=tuple(map(str, files)),
        history=tuple(_json.as_dict(message) for message in history),
        variables=rest,
    )


def _id(value: JsonValue, number: int) -> str:
    if value is None or value == "":
        return _line_id(number)
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _Invalid("its id is neither a text nor an integer")


def _optional_text(name: str, value: JsonValue) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise _Invalid(f"{name!r} is not a text")


# ---- tables ---------------------------------------------------------------------------------------------


def columns_of(header: str, form: Format) -> tuple[str, list[str]]:
    """Return the delimiter and the columns of the first line of a table."""
    delimiter = "\t" if form == "tsv" else ","
    if form == "csv" and "," not in header:
        # Programs write semicolons where the comma is the decimal mark.
        delimiter = ";" if ";" in header else delimiter
    return delimiter, [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]


def _read_table(
    file: BinaryIO, form: Format, id_column: str, check_columns: Callable[[list[str]], None] | None
) -> Iterator[BatchItem | BadLine]:
    """Yield the rows of a table with a header. A cell in quotes may have line breaks."""
    csv.field_size_limit(MAX_LINE)
    lines = (line.decode("utf-8", "surrogateescape") for line in _lines(file))
    header = next(lines, "")
    delimiter, columns = columns_of(header, form)
    _check_header(columns, id_column)
    if check_columns is not None:
        check_columns(columns)
    rows = csv.reader(lines, delimiter=delimiter)
    while True:
        number = rows.line_num + 2
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadLine(number, str(error))
            continue
        if row:
            try:
                yield _row(columns, row, number, id_column)
            except _Invalid as error:
                yield BadLine(number, str(error))


def _check_header(columns: list[str], id_column: str) -> None:
    if not any(columns):
        raise InputError("The table has no header.", hint="Its first line has the names of the columns.")
    twice = sorted({name for name in columns if columns.count(name) > 1 and name})
    if twice:
        raise InputError(f"The table has two columns named {twice[0]!r}.")
    if id_column != "id" and id_column not in columns:
        raise InputError(f"--id {id_column}: the table has the columns {', '.join(columns)}.")


def _row(columns: list[str], row: list[str], number: int, id_column: str) -> BatchItem:
    if len(row) != len(columns):
        raise _Invalid(f"it has {len(row)} cells, and the header has {len(columns)}")
    for cell in row:
        if not cell.isascii():
            _text(cell.encode("utf-8", "surrogateescape"))
    cells: Mapping[str, JsonValue] = dict(zip(columns, row, strict=True))
    own = {name: cells[name] or None for name in _TEXTS if name in cells}
    # A table has no lists, so `files` and `history` are columns like any other.
    item = _item({id_column: cells.get(id_column), **own}, number, id_column)
    return replace(
        item, variables={name: cell for name, cell in cells.items() if name not in (*_TEXTS, "id")}
    )
