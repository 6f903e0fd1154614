"""`tinyagent doctor` and `tinyagent plugins doctor`: problems, and what to do about them."""

from __future__ import annotations

import click

from tinyagent_cli.app_context import AppContext

from .options import CONTEXT, common_options

__all__ = ["command", "doctor"]


@click.command(context_settings=CONTEXT)
@click.option("--json", "as_json", is_flag=True, help="Print all findings as an object.")
@click.option("--offline", is_flag=True, help="Do not send requests to endpoints.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=3.0, metavar="SECONDS",
    help="Time for an endpoint to answer (3).",
)  # fmt: skip
@common_options
@click.pass_obj
def doctor(app: AppContext, as_json: bool, offline: bool, timeout: float) -> int:
    """Find problems with plugins, versions, keys and endpoints. Show what to do about them.

    Each plugin is loaded in a separate process. Endpoints that you have set up are asked for their models.

    \b
    Lines marked !! are problems. Lines marked -- are advice, such as how to set up a plugin.

    \b
    Exit codes: 0 no problem, 1 something will fail, 3 something must be set up or repaired first.
    """
    from tinyagent_cli.plugins.doctor import examine
    from tinyagent_cli.terminal.sanitise import clean, one_line
    from tinyagent_cli.terminal.tables import print_json
    from tinyagent_cli.terminal.wrapping import indented, wrap_width

    width = wrap_width(1)
    findings = []
    for finding in examine(app, seconds=timeout, offline=offline):
        findings.append(finding)
        if as_json or (app.quiet and not finding.code):
            continue
        mark = "!!" if finding.code else "--" if finding.hint else "ok"
        start = f"{mark}  {finding.check:13}  "
        lines = indented(
            one_line(f"{finding.subject}: {finding.message}", 1000), width, start, " " * len(start)
        )
        if finding.hint:
            lines += indented(clean(finding.hint), width, " " * 6, " " * 6)
        for line in lines:
            click.echo(line)
    code = max((finding.code for finding in findings), default=0)
    if as_json:
        rows = [{**finding._asdict(), "ok": not finding.code} for finding in findings]
        print_json({"ok": not code, "exit_code": code, "findings": rows})
    elif not code:
        advice = any(finding.hint for finding in findings)
        click.echo("No problems; lines marked -- are advice." if advice else "No problems.")
    return code


command = doctor
