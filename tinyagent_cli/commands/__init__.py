"""The sub-commands, one module each, and the table of them."""

__all__ = ["COMMANDS", "COMMAND_GROUPS"]

COMMAND_GROUPS = {
    "Ask a model": {
        "run": ("tinyagent_cli.commands.run", "Answer a prompt, with tools; as text or as JSONL."),
        "chat": ("tinyagent_cli.commands.chat", "Talk with a model."),
        "batch": ("tinyagent_cli.commands.batch", "Answer a file of prompts, and go on where it stopped."),
        "templates": ("tinyagent_cli.commands.templates", "Show and write prompt templates."),
    },
    "Saved and recorded runs": {
        "sessions": ("tinyagent_cli.commands.sessions", "Show, search and manage saved conversations."),
        "events": (
            "tinyagent_cli.commands.events",
            "Read recorded runs: text, tool calls, numbers, checks.",
        ),
        "replay": ("tinyagent_cli.commands.replay", "Show a recorded run as it was shown live."),
    },
    "Models and settings": {
        "models": ("tinyagent_cli.commands.models", "Show providers and the models they offer."),
        "keys": ("tinyagent_cli.commands.keys", "Store, list and remove the keys of providers."),
        "config": ("tinyagent_cli.commands.config", "Show and change settings."),
        "doctor": ("tinyagent_cli.commands.doctor", "Find problems and show how to solve them."),
        "completion": ("tinyagent_cli.commands.completion", "Print the completion script for a shell."),
    },
    "Tools and plugins": {
        "tools": ("tinyagent_cli.commands.tools", "Show tools, or call one without a model."),
        "plugins": ("tinyagent_cli.commands.plugins", "Install, create and check plugins."),
        "approvals": ("tinyagent_cli.commands.approvals", "Show and revoke stored approvals."),
    },
    "For programs": {
        "rpc": ("tinyagent_cli.commands.rpc", "Serve another program by JSON commands."),
        "schema": ("tinyagent_cli.commands.schema", "Print the JSON Schema of the output."),
    },
}
"""Heading in the help -> name -> module, which has the command as an attribute of this name, and its line."""

COMMANDS = {name: entry for group in COMMAND_GROUPS.values() for name, entry in group.items()}
"""Name -> module and line, of all commands."""
