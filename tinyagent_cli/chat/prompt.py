"""The prompt: its keys, its history and its completion."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input, create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output as TerminalOutput
from prompt_toolkit.output import create_output

from tinyagent_cli.terminal.live import LiveLines

__all__ = ["ChatCompleter", "FollowUp", "Status", "make_prompt", "open_history", "terminal_of"]

MAX_HISTORY = 1 << 20
"""When the file of the history is larger than this number of bytes, its older half is removed."""


class FollowUp(str):
    """A prompt for the time after the reply."""

    __slots__ = ()


class Status(LiveLines):
    """Lines above the prompt that change in place. The prompt draws them."""

    def lines(self) -> list[str]:
        """Return the lines for the present width."""
        return self._lines(get_app().output.get_size().columns - 1) if self._drawn else []

    def erase(self) -> None:
        """Do nothing: the prompt is redrawn after each output."""

    def hide(self) -> None:
        """Remove the lines, and stop redrawing them."""
        super().hide()
        self._drawn = False
        get_app().invalidate()

    def _draw(self) -> None:
        self._drawn = True
        get_app().invalidate()


class _SafeHistory(FileHistory):
    """A history whose file may become unwritable during the chat."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        super().__init__(str(path))
        self._warn: Callable[[str], None] | None = warn

    def store_string(self, string: str) -> None:
        try:
            super().store_string(string)
        except OSError as error:
            if self._warn is not None:
                self._warn(f"The history of prompts is not saved: {error.strerror}.")
                self._warn = None


def open_history(path: Path | None, warn: Callable[[str], None]) -> History:
    """Return the history of prompts in a file, or in memory without a path. The file gets mode 0600."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            os.fchmod(descriptor, 0o600)
            if os.fstat(descriptor).st_size > MAX_HISTORY:
                data = file.read()
                entry = data.find(b"\n# ", len(data) // 2)
                file.seek(0)
                file.truncate()
                file.write(data[entry:] if entry >= 0 else b"")
    except OSError as error:
        warn(f"The history of prompts is not saved in {path}: {error.strerror}.")
        return InMemoryHistory()
    return _SafeHistory(path, warn)


class ChatCompleter(Completer):
    """Completes commands, their arguments, and files after `@`.

    Args:
        commands: Returns the commands, each with its description.
        arguments: Returns the arguments that a command can have.
    """

    def __init__(
        self, commands: Callable[[], dict[str, str]], arguments: Callable[[str], Iterable[str]]
    ) -> None:
        self._commands = commands
        self._arguments = arguments
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        text = document.text_before_cursor
        if text.startswith("/") and "\n" not in text:
            name, space, rest = text[1:].partition(" ")
            if not space:
                for command, about in self._commands().items():
                    if command.startswith(name):
                        yield Completion(command, -len(name), display_meta=about)
                return
            word = rest.rpartition(" ")[2]
            for value in self._arguments(name):
                if value.startswith(word):
                    yield Completion(value, -len(word))
            if name == "export":
                yield from self._paths.get_completions(Document(rest), complete_event)
            return
        word = document.get_word_before_cursor(WORD=True)
        if word.startswith("@"):
            yield from self._paths.get_completions(Document(word[1:]), complete_event)


def terminal_of(stdin: int, stdout: int) -> tuple[Input, TerminalOutput]:
    """Return the terminal of these descriptors, for prompts."""
    source = os.fdopen(stdin, "r", closefd=False)
    target = os.fdopen(stdout, "w", closefd=False)
    return create_input(source), create_output(target)


def _key_bindings(works: Callable[[], bool], interrupt: Callable[[], None]) -> KeyBindings:
    keys = KeyBindings()
    working = Condition(works)

    @keys.add("enter")
    def _enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.current_line_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("c-j")
    @keys.add("escape", "enter", filter=~working)
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("escape", "enter", filter=working)
    def _follow_up(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        buffer.append_to_history()
        event.app.exit(result=FollowUp(buffer.text))

    @keys.add("c-c")
    def _interrupt(event: KeyPressEvent) -> None:
        if works() or not event.current_buffer.text:
            interrupt()
        else:
            event.current_buffer.reset()

    return keys


def make_prompt(
    terminal: tuple[Input, TerminalOutput],
    history: History,
    completer: Completer,
    *,
    label: Callable[[], str],
    status: Callable[[], list[str]],
    works: Callable[[], bool],
    interrupt: Callable[[], None],
) -> PromptSession[str]:
    """Return the prompt of a chat.

    Args:
        terminal: The input and the output.
        history: The earlier prompts.
        completer: Completes the text.
        label: Returns what is shown before the text.
        status: Returns the lines above the prompt.
        works: Whether the model answers.
        interrupt: Called for Ctrl-C if there is no text to remove.
    """

    def completes() -> bool:
        document = session.default_buffer.document
        return document.text.startswith("/") or document.get_word_before_cursor(WORD=True).startswith("@")

    def message() -> ANSI:
        lines = [] if get_app().is_done else status()
        return ANSI("\n".join([*lines, label()]))

    session: PromptSession[str] = PromptSession(
        message,
        input=terminal[0],
        output=terminal[1],
        history=history,
        completer=completer,
        complete_while_typing=Condition(completes),
        key_bindings=_key_bindings(works, interrupt),
        multiline=True,
        prompt_continuation="  ",
        # prompt_toolkit shows nothing but "Window too small" if this does not fit.
        reserve_space_for_menu=max(min(8, terminal[1].get_size().rows - 4), 0),
        enable_suspend=True,
    )
    return session
