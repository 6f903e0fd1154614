"""`tinyagent completion SHELL`: the completion script for a shell."""

from __future__ import annotations

import click

from .options import CONTEXT, common_options

__all__ = ["completion"]


@click.command(context_settings=CONTEXT)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common_options
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    \b
      bash   tinyagent completion bash > ~/.local/share/bash-completion/completions/tinyagent
      zsh    tinyagent completion zsh > ~/.zfunc/_tinyagent
      fish   tinyagent completion fish > ~/.config/fish/completions/tinyagent.fish

    What it completes: docs/completion.md.
    """
    from tinyagent_cli.completion_scripts import SHELLS
    from tinyagent_cli.shell_completion import COMPLETION_VARIABLE

    script = SHELLS[shell](ctx.find_root().command, {}, "tinyagent", COMPLETION_VARIABLE).source()
    click.echo(script, nl=False)
