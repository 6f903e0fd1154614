"""What an editor shows of a session: its modes, its models and its commands."""

from __future__ import annotations

from collections.abc import Sequence

from acp.schema import (
    AvailableCommand,
    AvailableCommandInput,
    AvailableCommandsUpdate,
    SessionConfigOptionSelect,
    SessionConfigSelectOption,
    SessionMode,
    SessionModeState,
    UnstructuredCommandInput,
)

from ._catalogue import Template
from ._modes import MODES

__all__ = ["COMPACT", "MODE", "MODEL", "commands_update", "config_options", "mode_state"]

MODE = "mode"
MODEL = "model"
COMPACT = "compact"


def mode_state(mode: str) -> SessionModeState:
    """Return all modes, with the present one."""
    modes = [SessionMode(id=known.id, name=known.name, description=known.description) for known in MODES]
    return SessionModeState(current_mode_id=mode, available_modes=modes)


def config_options(mode: str, model: str, models: Sequence[str]) -> list[SessionConfigOptionSelect]:
    """Return the settings of a session.

    Args:
        mode: The present mode.
        model: The present model.
        models: Other models to choose from.
    """
    modes = [
        SessionConfigSelectOption(value=known.id, name=known.name, description=known.description)
        for known in MODES
    ]
    names = [SessionConfigSelectOption(value=name, name=name) for name in dict.fromkeys([model, *models])]
    return [
        SessionConfigOptionSelect(
            type="select", id=MODE, name="Mode", category="mode", current_value=mode, options=modes
        ),
        SessionConfigOptionSelect(
            type="select", id=MODEL, name="Model", category="model", current_value=model, options=names
        ),
    ]


def commands_update(templates: Sequence[Template]) -> AvailableCommandsUpdate:
    """Return the commands that begin with a slash: `/compact` and the templates."""
    commands = [
        _command(COMPACT, "Replace the older messages by a summary", "what the summary must keep"),
        *(
            _command(template.name, template.description or f"The template {template.name}", "the prompt")
            for template in templates
        ),
    ]
    return AvailableCommandsUpdate(session_update="available_commands_update", available_commands=commands)


def _command(name: str, description: str, hint: str) -> AvailableCommand:
    wanted = AvailableCommandInput(root=UnstructuredCommandInput(hint=hint))
    return AvailableCommand(name=name, description=description, input=wanted)
