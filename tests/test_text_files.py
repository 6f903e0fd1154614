"""Reading text and configuration files: encodings, limits, owners and modes."""

from __future__ import annotations

import codecs
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagent import ConfigurationError, RecordError, text_files
from tinyagent.text_files import (
    decode_text,
    read_bytes,
    read_config,
    read_descriptor,
    write_private,
)

TEXT = '[run]\nmodel = "démo 😀"\n'
WITH_MARK = {
    "utf-8-sig": TEXT.encode("utf-8-sig"),
    "utf-16 LE": codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
    "utf-16 BE": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "utf-32 LE": codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
    "utf-32 BE": codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
}
WITHOUT_MARK = {
    codec: TEXT.encode(codec) for codec in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
}


@pytest.mark.parametrize(
    "data", [*WITH_MARK.values(), *WITHOUT_MARK.values()], ids=[*WITH_MARK, *WITHOUT_MARK]
)
def test_the_encoding_is_found(data: bytes) -> None:
    """It is detected by the byte order mark or by NUL bytes in the first two characters."""
    assert TEXT == decode_text(data, "file")


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"))


@given(TEXTS, st.sampled_from(text_files._MARKS))
def test_every_text_with_a_mark_is_read(text: str, mark: tuple[bytes, str]) -> None:
    """Text in any encoding with a mark is decoded correctly."""
    assert text == decode_text(mark[0] + text.encode(mark[1]), "file")


@given(TEXTS)
def test_no_utf_8_is_taken_for_another_encoding(text: str) -> None:
    """Without a mark and NUL, the text is UTF-8; a U+FEFF at its beginning is a mark."""
    assert text.removeprefix("\ufeff") == decode_text(text.encode(), "file")


@given(st.binary(max_size=50))
def test_any_bytes_are_text_or_an_error(data: bytes) -> None:
    """Only the caller's error is raised, and the text has no NUL and no CR."""
    try:
        text = decode_text(data, "file", error=RecordError)
    except RecordError:
        return
    assert set() == {"\0", "\r"} & set(text)


def test_short_texts_are_utf_8() -> None:
    """An empty text and one character are read; a mark alone is an empty text."""
    assert ["", "é", "", ""] == [
        decode_text(data, "file") for data in (b"", "é".encode(), codecs.BOM_UTF8, codecs.BOM_UTF16_LE)
    ]


def test_line_ends_become_lf() -> None:
    """CR LF and CR become LF."""
    assert "a\nb\nc\n\nd" == decode_text(b"a\r\nb\rc\n\rd", "file")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"abc\xe9def", "file is not UTF-8 text: byte 0xe9 at offset 3"),
        (codecs.BOM_UTF8 + b"abc\xff", "file is not UTF-8 text: byte 0xff at offset 6"),
        (codecs.BOM_UTF16_LE + b"a\0b", "file is not UTF-16 text: byte 0x62 at offset 4"),
        (codecs.BOM_UTF16_LE + b"a\0\x00\xd8", "file is not UTF-16 text: byte 0x00 at offset 4"),
        (codecs.BOM_UTF32_LE + b"\xff\xff\xff\xff", "file is not UTF-32 text: byte 0xff at offset 4"),
        ("é\0".encode(), "file is binary, not text: NUL at offset 2"),
        (codecs.BOM_UTF16_BE + "é\0".encode("utf-16-be"), "file is binary, not text: NUL at offset 4"),
        (b"\0\0\0\0", "file is binary, not text: NUL at offset 0"),
        (b"\xed\xa0\x80", "file is not UTF-8 text: byte 0xed at offset 0"),
    ],
)
def test_invalid_text_is_an_error_with_its_place(data: bytes, message: str) -> None:
    """The message has the name, the byte and its offset."""
    with pytest.raises(RecordError) as caught:
        decode_text(data, "file", error=RecordError)
    assert str(caught.value).startswith(message)


# ---- limits -------------------------------------------------------------------------------------------


def test_a_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """The size is checked first: a sparse file of 100 GB fails at once."""
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(100 << 30)
    with pytest.raises(ConfigurationError, match="sparse is longer than 1 MiB"):
        read_bytes(sparse, limit=1 << 20)


def test_a_device_without_end_is_refused() -> None:
    """`/dev/zero` has no size; reading stops at the limit."""
    with pytest.raises(ConfigurationError, match="/dev/zero is longer than 1000 bytes"):
        read_bytes("/dev/zero", limit=1000)


def test_the_limit_itself_is_allowed(tmp_path: Path) -> None:
    """A file of exactly the limit is read, also from a pipe."""
    (tmp_path / "file").write_bytes(b"x" * 1000)
    assert b"x" * 1000 == read_bytes(tmp_path / "file", limit=1000)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"y" * 1000,))
    writer.start()
    assert b"y" * 1000 == read_bytes(pipe, limit=1000)
    writer.join()


def test_a_pipe_in_non_blocking_mode_is_waited_for() -> None:
    """Programs such as Node.js set standard input to this mode."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    timer = threading.Timer(0.05, lambda: (os.write(writer, b"late"), os.close(writer)))
    timer.start()
    assert b"late" == read_descriptor(reader, limit=10, name="pipe")
    timer.join()
    os.close(reader)


@pytest.mark.parametrize(
    ("path", "reason"),
    [("missing", "No such file"), (".", "Is a directory"), ("a\0b", "null (?:byte|character)")],
)
def test_unreadable_files_have_a_reason(tmp_path: Path, path: str, reason: str) -> None:
    """A missing file, a directory and an invalid name have their own errors."""
    with pytest.raises(ConfigurationError, match=reason):
        read_bytes(tmp_path / path, limit=10)


# ---- configuration files ------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration file of mode 0600."""
    path = tmp_path / "config.toml"
    write_private(path, TEXT.encode())
    return path


def test_a_configuration_file_is_read(config: Path) -> None:
    """The text is decoded, also through symbolic links."""
    link = config.with_name("link.toml")
    link.symlink_to(config)
    assert [TEXT, TEXT] == [read_config(config), read_config(link, private=True)]


@pytest.mark.parametrize(
    "path",
    ["missing", "config.toml/missing", "x" * 300, "loop/config.toml", "dangling"],
    ids=lambda p: p[:20],
)
def test_a_file_that_cannot_exist_is_missing(config: Path, path: str) -> None:
    """ENOENT, ENOTDIR (HOME=/dev/null), ENAMETOOLONG and ELOOP count as a missing file."""
    (config.parent / "loop").symlink_to("loop")
    (config.parent / "dangling").symlink_to("nowhere")
    assert None is read_config(config.parent / path)


@pytest.mark.parametrize(("private", "mode"), [(False, 0o602), (False, 0o620), (True, 0o640), (True, 0o604)])
def test_a_loose_mode_is_refused(
    config: Path, private: bool, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that others can write, or read if private, are refused with a command that repairs it."""
    monkeypatch.setattr(text_files, "_is_private_group", lambda found: False)
    config.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"mode {mode:04o}") as caught:
        read_config(config, private=private)
    assert str(caught.value.hint).startswith("Change that with: chmod ")
    assert mode == stat.S_IMODE(config.stat().st_mode)
    assert TEXT == config.read_text()


@pytest.mark.parametrize("kind", ["pipe", "directory", "device"])
def test_only_regular_files_are_used(tmp_path: Path, kind: str) -> None:
    """A pipe without a writer, a directory and a device are refused, without waiting."""
    path = tmp_path / "config.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ConfigurationError, match="is not a regular file"):
        read_config(path)


def test_a_link_to_itself_is_an_error(tmp_path: Path) -> None:
    """The file exists and cannot be read."""
    path = tmp_path / "config.toml"
    path.symlink_to(path)
    with pytest.raises(ConfigurationError, match="cannot be read: Too many levels"):
        read_config(path)


def result(owner: int, mode: int, group: int = 4_000_000_000) -> os.stat_result:
    """Return the result of `fstat` for a regular file."""
    return os.stat_result((stat.S_IFREG | mode, 0, 0, 1, owner, group, 0, 0, 0, 0))


USER, OTHER, ROOT = 4_000_000_001, 4_000_000_002, 0


@pytest.mark.parametrize(
    ("owner", "mode", "user", "directory", "private", "allowed"),
    [
        (USER, 0o644, USER, USER, False, True),
        (USER, 0o600, USER, USER, True, True),
        (ROOT, 0o644, USER, ROOT, False, True),
        (OTHER, 0o644, USER, OTHER, False, False),
        (OTHER, 0o600, USER, USER, True, False),
        (ROOT, 0o640, USER, ROOT, True, True),  # the only way to give the user a key that root owns
        (ROOT, 0o660, USER, ROOT, True, False),
        (USER, 0o640, USER, USER, True, False),
        (ROOT, 0o640, ROOT, ROOT, True, False),
        (OTHER, 0o600, ROOT, OTHER, True, True),  # a container's root over the files of the host's user
        (OTHER, 0o600, ROOT, ROOT, True, False),  # put into /tmp by another user
        (OTHER, 0o600, ROOT, None, True, False),
    ],
)
def test_owners(
    owner: int, mode: int, user: int, directory: int | None, private: bool, allowed: bool
) -> None:
    """The file must belong to the user or root; for root also to the owner of its directory."""
    refusal = text_files._reason_to_refuse(result(owner, mode), user, directory, private=private)
    assert allowed == (refusal is None), refusal


def test_a_group_of_the_user_alone_may_write() -> None:
    """With umask 002, each user has a group with the same number and no other members."""
    own, shared = result(USER, 0o664, group=USER), result(USER, 0o664, group=OTHER)
    assert text_files._reason_to_refuse(own, USER, USER, private=False) is None
    assert text_files._reason_to_refuse(shared, USER, USER, private=False) is not None
    assert text_files._reason_to_refuse(own, USER, USER, private=True) is not None


def test_an_owner_is_enforced_on_the_opened_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another user is refused, and the message names the owner."""
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        found = list(real(descriptor))
        found[stat.ST_UID] = OTHER
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(ConfigurationError, match=rf"belongs to another user \(uid {OTHER}\)"):
        read_config(config)


@pytest.mark.skipif(os.geteuid() == 0, reason="root sees into every directory")
def test_a_closed_directory_of_ones_own_is_an_error(config: Path) -> None:
    """The file may exist and contain restrictions, so it does not count as missing."""
    config.parent.chmod(0)
    try:
        with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
            read_config(config)
    finally:
        config.parent.chmod(0o700)


def test_writing_is_private_and_atomic(tmp_path: Path) -> None:
    """The modes are 0600 and 0700, no other file remains, and links keep their target."""
    path = tmp_path / "new" / "keys.toml"
    write_private(path, b"one")
    link = tmp_path / "link"
    link.symlink_to(path)
    path.chmod(0o644)
    write_private(link, b"two")
    assert (b"two", 0o600, 0o700) == (
        path.read_bytes(),
        stat.S_IMODE(path.stat().st_mode),
        stat.S_IMODE(path.parent.stat().st_mode),
    )
    assert link.is_symlink()
    assert ["keys.toml"] == [file.name for file in path.parent.iterdir()]


def test_a_failed_write_preserves_the_old_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the old content remains, without a temporary file."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_private(config, b"new")
    assert (TEXT, ["config.toml"]) == (config.read_text(), [file.name for file in config.parent.iterdir()])
