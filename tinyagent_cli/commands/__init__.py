"""The sub-commands, one module each, and the table of them."""

__all__ = ["COMMANDS", "COMMAND_GROUPS"]

COMMAND_GROUPS = {
    "Ask a model": {
        "run": "Answer a prompt, with tools; as text or as JSONL.",
        "chat": "Talk with a model.",
        "batch": "Answer a file of prompts, and go on where it stopped.",
        "templates": "Show and write prompt templates.",
    },
    "Saved and recorded runs": {
        "sessions": "Show, search and manage saved conversations.",
        "events": "Read recorded runs: text, tool calls, numbers, checks.",
        "replay": "Show a recorded run as it was shown live.",
    },
    "Models and settings": {
        "models": "Show providers and the models they offer.",
        "keys": "Store, list and remove the keys of providers.",
        "config": "Show and change settings.",
        "doctor": "Find problems and show how to solve them.",
        "completion": "Print the completion script for a shell.",
    },
    "Tools and plugins": {
        "tools": "Show tools, or call one without a model.",
        "plugins": "Install, create and check plugins.",
        "approvals": "Show and revoke stored approvals.",
    },
    "For programs": {
        "rpc": "Serve another program by JSON commands.",
        "schema": "Print the JSON Schema of the output.",
    },
}
"""Heading in the help -> name -> line of the help. The module of a command has its name."""

COMMANDS = {name: line for group in COMMAND_GROUPS.values() for name, line in group.items()}
"""Name -> line, of all commands."""
