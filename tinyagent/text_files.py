"""Read text and configuration files: one rule for encodings, size limits and file permissions.

Encoding. A byte order mark decides: UTF-8, UTF-16 or UTF-32. Without one the text is UTF-8, unless its
first two characters are UTF-16 or UTF-32 (their upper bytes are zero, as in RFC 4627, section 3). Bytes
that do not fit and NUL characters are errors that name the byte offset. CR LF and a lone CR become LF.

Size. Every read has a limit in bytes, so `/dev/zero` or an endless pipe is an error and does not fill the
memory.

Trust. `read_config` also checks the owner and the mode of the file that it has opened.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat

from .errors import ConfigurationError, TinyAgentError

__all__ = [
    "MAX_CONFIG_BYTES",
    "MAX_RECORD_BYTES",
    "decode_text",
    "detect_encoding",
    "read_bytes",
    "read_config",
    "read_descriptor",
    "write_private",
]

MAX_CONFIG_BYTES = 1 << 20
"""The size limit of a configuration file, in bytes."""

MAX_RECORD_BYTES = 256 << 20
"""The size limit of a recorded run that is read at once, in bytes."""

_CHUNK = 1 << 18

# UTF-32 comes first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# Which of the first bytes are zero, for two characters below U+0100 and for one of UTF-32.
_ZEROS = (
    ((False, True, True, True), "utf-32-le"),
    ((True, True, True, False), "utf-32-be"),
    ((False, True, False, True), "utf-16-le"),
    ((True, False, True, False), "utf-16-be"),
)


def detect_encoding(head: bytes) -> tuple[str, int]:
    """Return the codec of a text that begins with `head`, and the length of its byte order mark in bytes.

    Pass the first four bytes, or the whole text if it is shorter.
    """
    for mark, codec in _MARKS:
        if head.startswith(mark):
            return codec, len(mark)
    zeros = tuple(byte == 0 for byte in head[:4])
    return next((codec for pattern, codec in _ZEROS if zeros == pattern), "utf-8"), 0


def decode_text(
    data: bytes, name: str, *, error: type[TinyAgentError] = ConfigurationError, hint: str | None = None
) -> str:
    """Decode a text by the rule of this module.

    Args:
        data: All bytes of the text.
        name: The source of the bytes, for error messages.
        error: The class of the error to raise.
        hint: The hint of the error; "Save it as UTF-8." if None.

    Raises:
        error: A byte is invalid in the encoding, or the text has a NUL character.
    """
    codec, start = detect_encoding(data)
    try:
        text = data[start:].decode(codec) if start else data.decode(codec)
    except UnicodeDecodeError as fault:
        at = fault.start + start
        label = codec[: len("utf-16")].rstrip("-").upper()
        raise error(
            f"{name} is not {label} text: byte 0x{data[at]:02x} at offset {at} ({fault.reason}).",
            hint=hint or "Save it as UTF-8.",
        ) from None
    if "\0" in text:
        at = start + len(text[: text.index("\0")].encode(codec))
        raise error(f"{name} is binary, not text: NUL at offset {at}.", hint=hint)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_bytes(
    path: str | os.PathLike[str],
    *,
    limit: int,
    name: str | None = None,
    error: type[TinyAgentError] = ConfigurationError,
) -> bytes:
    """Read all bytes of a file, a pipe or a device; `~` stands for the home directory.

    Args:
        path: The path.
        limit: The size limit in bytes.
        name: The name in error messages; the path if None.
        error: The class of the error to raise.

    Raises:
        error: It cannot be read, or it is longer than `limit`.
    """
    name = name or os.fspath(path)
    try:
        descriptor = os.open(os.path.expanduser(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)  # noqa: PTH111
    except (OSError, ValueError) as fault:
        raise error(f"Cannot read {name}: {_reason(fault)}.") from None
    try:
        return read_descriptor(descriptor, limit=limit, name=name, error=error)
    finally:
        os.close(descriptor)


def read_descriptor(
    descriptor: int, *, limit: int, name: str, error: type[TinyAgentError] = ConfigurationError
) -> bytes:
    """Read all bytes of an open file descriptor. The arguments are those of `read_bytes`."""
    chunks: list[bytes] = []
    size = 0
    try:
        left = _unread_bytes(descriptor)
        if left > limit:
            raise error(_too_long(name, limit))
        while chunk := _read_chunk(descriptor, max(left + 1, _CHUNK)):
            left = 0
            size += len(chunk)
            if size > limit:
                raise error(_too_long(name, limit))
            chunks.append(chunk)
    except OSError as fault:
        raise error(f"Cannot read {name}: {_reason(fault)}.") from None
    return b"".join(chunks)


def _unread_bytes(descriptor: int) -> int:
    """Return how many bytes of a regular file are left; 0 for a pipe or a device."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        return 0
    return max(found.st_size - os.lseek(descriptor, 0, os.SEEK_CUR), 0)


def _read_chunk(descriptor: int, size: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, size)
        except BlockingIOError:  # another process, such as Node.js, left the pipe in non-blocking mode
            import select

            select.select([descriptor], [], [])


def read_config(
    path: str | os.PathLike[str], *, private: bool = False, limit: int = MAX_CONFIG_BYTES
) -> str | None:
    """Read a configuration file, and check that only the user or root can write it.

    The checks apply to the opened file, after all symbolic links:

    - It is a regular file. A pipe or a device is refused without waiting for it.
    - Its owner is the user or root. Root also accepts another user's file from that user's own directory,
      because containers often run as root on files of the host's user.
    - Its group and others cannot write it. Exception: a group whose only member is the user.
    - With `private`, its group and others cannot read it either. Exception: the group may read a file that
      root owns, because otherwise the user could not read it.

    Args:
        path: The file.
        private: Whether the file holds secrets or permissions.
        limit: The size limit in bytes.

    Returns:
        The text, or None if the file does not exist. A file in a directory that does not exist, is not a
        directory, or belongs to another user and cannot be entered counts as not existing.

    Raises:
        ConfigurationError: The file exists but cannot be read, or fails a check.
    """
    name = os.fspath(path)
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as fault:
        if isinstance(fault, OSError) and _is_missing(name, fault):
            return None
        raise ConfigurationError(f"{name} cannot be read: {_reason(fault)}.") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigurationError(f"{name} is not a regular file, so it is not used.")
        refusal = _reason_to_refuse(found, os.geteuid(), _owner_of_directory(name), private=private)
        if refusal is not None:
            why, how = refusal
            raise ConfigurationError(
                f"{name} {why}, so it is not used.", hint=f"Change that with: {how} {name}"
            )
        data = read_descriptor(descriptor, limit=limit, name=name)
    finally:
        os.close(descriptor)
    return decode_text(data, name)


def write_private(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace a file atomically by one with mode 0600. Readers see the old or the new content.

    A missing directory is created with mode 0700. If the path is a symbolic link, its target is replaced.

    Raises:
        OSError: The file cannot be written; the old file is unchanged.
    """
    from tempfile import mkstemp

    target = os.path.realpath(path)
    directory, name = os.path.split(target)
    os.makedirs(directory, mode=0o700, exist_ok=True)  # noqa: PTH103
    descriptor, temporary = mkstemp(prefix=f".{name}.", suffix=".new", dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, target)  # noqa: PTH105
    except BaseException:
        os.unlink(temporary)  # noqa: PTH108
        raise


def _reason_to_refuse(
    found: os.stat_result, user: int, directory_owner: int | None, *, private: bool
) -> tuple[str, str] | None:
    """Return why a file with this owner and mode must not be used, and the command that changes it."""
    trusted = {0, user} if user or directory_owner is None else {0, directory_owner}
    if found.st_uid not in trusted:
        return f"belongs to another user (uid {found.st_uid})", f"chown {user}"
    mode = stat.S_IMODE(found.st_mode)
    if private:
        allowed_to_read = stat.S_IRGRP if user and found.st_uid == 0 else 0
        if mode & 0o077 & ~allowed_to_read:
            return f"can be read or written by others (mode {mode:04o})", "chmod 600"
    elif mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not _is_private_group(found)):
        return f"can be written by others (mode {mode:04o})", "chmod go-w"
    return None


def _is_private_group(found: os.stat_result) -> bool:
    """Return whether the owner is the only member of the file's group, as is usual with umask 002."""
    import grp
    import pwd

    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        owner = None
    try:
        group = grp.getgrgid(found.st_gid)
    except KeyError:
        return found.st_gid == found.st_uid
    return group.gr_name == owner and set(group.gr_mem) <= {owner}


def _owner_of_directory(path: str) -> int | None:
    try:
        return os.stat(os.path.dirname(path) or ".").st_uid  # noqa: PTH116, PTH120
    except OSError:
        return None


def _is_missing(path: str, fault: OSError) -> bool:
    """Return whether the file does not exist, as opposed to one that cannot be opened."""
    if fault.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return True
    if fault.errno == errno.ELOOP:
        return not os.path.lexists(path)
    return fault.errno == errno.EACCES and _is_closed_to_us(path)


def _is_closed_to_us(path: str) -> bool:
    """Return whether the file is in a closed directory of another user, such as the home of root."""
    nearest = os.path.dirname(os.path.abspath(path))  # noqa: PTH100, PTH120
    if os.path.lexists(path):
        return False
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)  # noqa: PTH120
    return os.stat(nearest).st_uid != os.geteuid()  # noqa: PTH116


def _too_long(name: str, limit: int) -> str:
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit} bytes"
    return f"{name} is longer than {size}, which is the limit."


def _reason(fault: OSError | ValueError) -> str:
    return (isinstance(fault, OSError) and fault.strerror) or str(fault)
