"""The network as this machine sees it: loopback addresses, proxies and trusted certificates.

The environment variables are those of curl: `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` in either
case, `SSL_CERT_FILE` and `SSL_CERT_DIR`.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
from pathlib import Path

from tinyagent.errors import ConfigurationError

__all__ = ["certificate_hint", "is_loopback", "parse_address", "proxy_for", "tls_context"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


# ---- addresses ----------------------------------------------------------------------------------------


def parse_address(host: str) -> Address | None:
    """Parse an IP address in any notation that the resolver accepts; None if `host` is a name.

    `127.1`, `0x7f000001` and `2130706433` are IPv4 addresses to `getaddrinfo`. An IPv4 address that is
    mapped into IPv6 (`::ffff:127.0.0.1`) is returned as the IPv4 address.
    """
    text = host.strip().removeprefix("[").removesuffix("]").rstrip(".")
    if ":" in text:
        try:
            address = ipaddress.IPv6Address(text)
        except ValueError:
            return None
        return address.ipv4_mapped or address
    # `inet_aton` also accepts an address that is followed by a space and other text.
    if not re.fullmatch(r"[0-9A-Fa-fxX.]+", text):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except OSError:
        return None


def is_loopback(host: str) -> bool:
    """Whether a host name or address, in any notation, refers to this machine.

    The unspecified address (`0.0.0.0`, `::`) does: a connection to it never leaves the machine.
    """
    name = host.rstrip(".").lower()
    if name in ("localhost", "ip6-localhost", "ip6-loopback") or name.endswith(".localhost"):
        return True
    address = parse_address(name)
    return address is not None and (address.is_loopback or address.is_unspecified)


# ---- proxies ------------------------------------------------------------------------------------------


def proxy_for(scheme: str, host: str, port: int) -> str | None:
    """Return the URL of the proxy that the environment sets for a server; None for a direct connection.

    Connections to this machine are always direct.
    """
    if is_loopback(host):
        return None
    # Imported late, because it would slow down the start. httpx imports it too.
    import urllib.request

    proxies = {name: value.strip() for name, value in urllib.request.getproxies_environment().items()}
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or is_excluded(proxies.get("no", ""), host, port):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def is_excluded(no_proxy: str, host: str, port: int) -> bool:
    """Whether `no_proxy` contains a server.

    Entries are separated by commas or blanks. An entry is `*`, a domain with or without a dot or `*.` in
    front (it covers its subdomains), an IP address, or a network (`10.0.0.0/8`, `fd00::/8`); domains and
    addresses may be followed by `:port`.
    """
    name = host.strip("[]").rstrip(".").lower()
    address = parse_address(name)
    return any(
        _covers(entry, name, address, port) for entry in re.split(r"[\s,]+", no_proxy.lower()) if entry
    )


def _covers(entry: str, name: str, address: Address | None, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    pattern, wanted_port = _split_port(entry)
    if wanted_port is not None and wanted_port != port:
        return False
    if address is not None:
        return address == parse_address(pattern)
    pattern = pattern.removeprefix("*").removeprefix(".").rstrip(".")
    return bool(pattern) and (name == pattern or name.endswith(f".{pattern}"))


def _split_port(entry: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*):([0-9]{1,5})", entry)
    return (match[1], int(match[2])) if match else (entry, None)


# ---- certificates -------------------------------------------------------------------------------------

_HASHED_NAME = r"[0-9a-f]{8}\.[0-9]+"
_SYSTEM_DIRECTORIES = ("/etc/ssl/certs", "/etc/pki/tls/certs", "/system/etc/security/cacerts")
_SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

_contexts: dict[tuple[str | None, ...], ssl.SSLContext] = {}


def tls_context(ca_file: str | None, *, owner: str = "") -> ssl.SSLContext:
    """Return a TLS context that verifies servers; one for each source of certificates and each owner.

    A library that changes its contexts, as httpx does for HTTP/2, is an owner of its own.

    The first of these sources is used: `ca_file`; `SSL_CERT_FILE` and `SSL_CERT_DIR`; the certificates of
    the system; the certificates of certifi.

    Raises:
        ConfigurationError: A file or directory of certificates cannot be read.
    """
    key = (ca_file, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    context = _contexts.get((*key, owner))
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            _load_certificates(context, *key)
        except (OSError, ssl.SSLError) as error:
            names = " or ".join(repr(name) for name in ([ca_file] if ca_file else key[1:]) if name)
            raise ConfigurationError(
                f"the CA certificates in {names or 'the system store'} cannot be read: {error}"
            ) from None
        _contexts[*key, owner] = context
    return context


def _load_certificates(
    context: ssl.SSLContext, ca_file: str | None, env_file: str | None, env_directory: str | None
) -> None:
    if ca_file is not None:
        context.load_verify_locations(cafile=Path(ca_file).expanduser())
    elif env_file or env_directory:
        if env_directory and not Path(env_directory).is_dir():
            raise NotADirectoryError(f"{env_directory} is not a directory")
        context.load_verify_locations(cafile=env_file or None, capath=env_directory or None)
    elif (directory := _hashed_directory()) is not None:
        # OpenSSL reads only the certificate that it needs, in 1 ms. Parsing a bundle takes 20 ms.
        context.load_verify_locations(capath=directory)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if not context.cert_store_stats()["x509_ca"]:
            context.load_verify_locations(cafile=_bundle())


def _hashed_directory() -> str | None:
    """Return the system's certificate directory, if its files have the hashed names that OpenSSL needs."""
    default = ssl.get_default_verify_paths().capath
    for directory in dict.fromkeys(filter(None, (default, *_SYSTEM_DIRECTORIES))):
        try:
            with os.scandir(directory) as entries:
                if any(re.fullmatch(_HASHED_NAME, entry.name) for entry in entries):
                    return directory
        except OSError:
            continue
    return None


def _bundle() -> str:
    """Return the path of the system's bundle of certificates; without one, that of certifi."""
    import certifi

    return next((name for name in _SYSTEM_FILES if Path(name).is_file()), None) or certifi.where()


_CERTIFICATE_HINTS = (
    (
        r"CaUsedAsEndEntity",
        "The server presents a CA certificate, which the Rust provider refuses. Make the certificate with "
        "basicConstraints=CA:FALSE, or use the provider without 'alchemy/'.",
    ),
    (
        r"mismatch|not valid for",
        "The certificate is for another host. Use a host name of the certificate in the base URL.",
    ),
    (r"expired", "The server's certificate has expired, or the clock of this machine is wrong."),
    (
        r"not yet valid|NotValidYet",
        "The certificate is not valid yet, or the clock of this machine is wrong.",
    ),
    (
        r"self.signed|UnknownIssuer|issuer",
        "If you trust the server, set ca_file to its certificate or to the certificate of its CA.",
    ),
)


def certificate_hint(reason: str) -> str:
    """Return a hint for a certificate that OpenSSL or rustls refused for `reason`."""
    for pattern, hint in _CERTIFICATE_HINTS:
        if re.search(pattern, reason, re.IGNORECASE):
            return hint
    return "If the server's certificate is from a private CA, set ca_file."
