"""`tinyagent proxy`: the command line of the server."""

from __future__ import annotations

import secrets
from pathlib import Path

import click

__all__ = ["proxy"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def proxy() -> None:
    """Serve models to callers with a token; the keys stay on the server."""


@proxy.command()
def token() -> None:
    """Print a new token. Store it where only you can read it."""
    click.echo(secrets.token_urlsafe(32))


@proxy.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0: any free port.")
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE",
    help="TOML: [server], [tokens.NAME], [providers.NAME].",
)  # fmt: skip
@click.option(
    "--token-env", "variables", multiple=True, metavar="VARIABLE",
    help="An environment variable with a token; repeatable. "
    "If there is no other token: TINYAGENT_PROXY_TOKEN.",
)  # fmt: skip
@click.option("--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="Certificate chain, PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="Its private key, PEM.")
@click.option("--allow-http", is_flag=True, help="Accept other machines without TLS.")
def serve(
    host: str,
    port: int,
    config_file: Path | None,
    variables: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    allow_http: bool,
) -> None:
    """Serve the proxy protocol. The first line on standard output is the URL.

    The providers' keys come from the environment. Each request is logged as one line on standard error.
    SIGTERM and Ctrl-C stop the server; active replies get an error event.
    """
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key must be used together.")
    try:
        from . import _server
        from ._app import Proxy
    except ModuleNotFoundError as error:
        from tinyagent import ConfigurationError

        raise ConfigurationError(
            f"The proxy server needs {error.name}, which is not installed.",
            hint="pip install starlette uvicorn",
        ) from None
    from ._callers import Callers
    from ._config import read_config, read_tokens
    from ._upstreams import Upstreams

    _server.check_exposure(host, tls=tls_cert is not None, allow_http=allow_http)
    config = read_config(config_file)
    tokens = read_tokens(config.tokens, variables, folder=config_file.parent if config_file else None)
    upstreams = Upstreams(config.providers)
    callers = Callers(tokens)

    def log(line: str) -> None:
        click.echo(line, err=True)

    def announce(url: str) -> None:
        click.echo(url)
        names = ", ".join(upstream.name for upstream in upstreams)
        log(f"Serving {names} to {', '.join(callers.names)}. Callers: TINYAGENT_PROXY_URL={url}")

    app = Proxy(config.server, callers, upstreams, log, secrets=[token.secret for token in tokens])
    with _server.listen(host, port) as bound:
        _server.serve(app, bound, announce, tls_cert=tls_cert, tls_key=tls_key)
