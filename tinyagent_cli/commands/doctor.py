"""`tinyagent doctor`, and `tinyagent plugins doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

import click

from tinyagent_cli.app_context import AppContext

from .options import CONTEXT, common_options

__all__ = ["command", "doctor"]


@click.command(context_settings=CONTEXT)
@click.option("--json", "as_json", is_flag=True, help="Print everything that was looked at as an object.")
@click.option("--offline", is_flag=True, help="Do not ask endpoints whether they are there.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=3.0, metavar="SECONDS",
    help="How long an endpoint has to answer (3).",
)  # fmt: skip
@common_options
@click.pass_obj
def doctor(app: AppContext, as_json: bool, offline: bool, timeout: float) -> int:
    """Find broken plugins, conflicts, missing keys and dead endpoints; say what to do.

    Plugins are loaded, each in a process of its own; endpoints that you have set up are asked for models.

    \b
    What is installed and not set up yet is no fault; such lines are marked -- and say how to set it up.

    \b
    Exit codes: 0 nothing is wrong, 1 something will fail, 3 something must be set up or mended first.
    """
    from tinyagent_cli.plugins.doctor import examine
    from tinyagent_cli.terminal.sanitise import clean, one_line
    from tinyagent_cli.terminal.tables import print_json

    findings = []
    for finding in examine(app, seconds=timeout, offline=offline):
        findings.append(finding)
        if as_json or (app.quiet and not finding.code):
            continue
        mark = "!!" if finding.code else "--" if finding.hint else "ok"
        click.echo(f"{mark}  {finding.check:13}  {one_line(f'{finding.subject}: {finding.message}', 1000)}")
        for line in clean(finding.hint or "").splitlines():
            click.echo(f"      {line}")
    code = max((finding.code for finding in findings), default=0)
    if as_json:
        rows = [{**finding._asdict(), "ok": not finding.code} for finding in findings]
        print_json({"ok": not code, "exit_code": code, "findings": rows})
    elif not code:
        advice = any(finding.hint for finding in findings)
        click.echo("Nothing is wrong; lines marked -- hold advice." if advice else "All is well.")
    return code


command = doctor
