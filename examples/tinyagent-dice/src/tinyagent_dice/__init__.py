"""Dice for tinyagent: register the tool and the provider."""

from collections.abc import Callable

from tinyagent import AgentTool, Provider, hookimpl

from .provider import dice_provider
from .rolling import roll

__all__ = ["dice_provider", "roll"]


@hookimpl
def tinyagent_register_tools(register: Callable[[AgentTool], None]) -> None:
    """Register the tools of `-t dice`."""
    register(roll)


@hookimpl
def tinyagent_register_providers(register: Callable[[Provider], None]) -> None:
    """Register the provider of `-m dice/…`."""
    register(dice_provider)
