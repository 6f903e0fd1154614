"""Dice for tinyagent: what the plugin registers."""

from tinyagent import hookimpl

from .provider import dice_provider
from .rolling import roll

__all__ = ["dice_provider", "roll"]


@hookimpl
def tinyagent_register_tools(register):
    """Called when somebody says `-t dice`."""
    register(roll)


@hookimpl
def tinyagent_register_providers(register):
    """Called when somebody says `-m dice/...`."""
    register(dice_provider)
