"""The connection to a server: addresses of this machine, proxies, and trusted certificates."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from tinyagent._net import network as _network
from tinyagent._net.network import certificate_hint, is_loopback, proxy_for, tls_context
from tinyagent.errors import ConfigurationError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment sets no proxy and no certificates, and no TLS context is cached."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_network, "_contexts", {})


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST", "localhost.", "models.localhost", "ip6-localhost"),
        *("127.0.0.1", "127.1", "127.254.3.2", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1"),
        *("::1", "[::1]", "0:0:0:0:0:0:0:1", "0000::0001", "::1%lo"),
        *("::ffff:127.0.0.1", "::ffff:7f00:1", "0.0.0.0", "0", "::"),
    ],
)
def test_addresses_of_this_machine(host: str) -> None:
    """Loopback addresses in every notation of the resolver are recognised, and the unspecified address."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost.example", "127.0.0.1.example", "127.example", "1270.0.0.1", "10.0.0.1", "128.0.0.1"),
        *("127.0.0.1 x", "::2", "fe80::1", "cafe", "dead.beef", "", "::ffff:10.0.0.1"),
    ],
)
def test_addresses_of_other_machines(host: str) -> None:
    """A name that only resembles a loopback address is another machine, for which http:// is refused."""
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("variables", "url", "expected"),
    [
        ({"http_proxy": " http://p:1 "}, ("http", "a.example", 80), "http://p:1"),
        ({"HTTPS_PROXY": "p:1\n"}, ("https", "a.example", 443), "http://p:1"),
        ({"http_proxy": "  "}, ("http", "a.example", 80), None),
        ({"http_proxy": " ", "all_proxy": "socks5://p:1"}, ("http", "a.example", 80), "socks5://p:1"),
        ({"http_proxy": "http://p:1"}, ("http", "127.1", 80), None),
        ({"all_proxy": "http://p:1"}, ("https", "::ffff:127.0.0.1", 443), None),
    ],
)
def test_proxies_of_the_environment(
    variables: dict[str, str],
    url: tuple[str, str, int],
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blanks around the URL of a proxy are ignored. A blank URL and this machine have no proxy."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert expected == proxy_for(*url)


@pytest.mark.parametrize(
    ("entries", "host", "port", "excluded"),
    [
        ("*", "a.example", 80, True),
        ("a.example", "a.example", 80, True),
        ("example", "a.example", 80, True),
        (".example", "a.example", 80, True),
        ("*.example", "a.example", 80, True),
        ("A.EXAMPLE.", "a.example", 80, True),
        ("ample", "a.example", 80, False),
        ("b.example", "a.example", 80, False),
        (" b.example ,\ta.example", "a.example", 80, True),
        ("b.example a.example", "a.example", 80, True),
        ("a.example:80", "a.example", 80, True),
        ("a.example:81", "a.example", 80, False),
        ("10.0.0.0/8", "10.1.2.3", 80, True),
        ("10.0.0.0/8", "0x0a010203", 80, True),
        ("10.1.2.9/8", "10.1.2.3", 80, True),
        ("10.0.0.0/8", "11.1.2.3", 80, False),
        ("10.0.0.0/99", "10.1.2.3", 80, False),
        ("10.0.0.0/8", "ten.example", 80, False),
        ("10.1.2.3", "10.1.2.3", 80, True),
        ("10.1.2.3:81", "10.1.2.3", 80, False),
        ("fd00::/8", "fd00::1", 80, True),
        ("fd00:0::1", "fd00::1", 80, True),
        ("[fd00::1]:80", "fd00::1", 80, True),
        ("[fd00::1]:81", "fd00::1", 80, False),
        (",", "a.example", 80, False),
    ],
)
def test_servers_that_no_proxy_excludes(
    entries: str, host: str, port: int, excluded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`no_proxy` contains domains, addresses and networks, with or without a port."""
    monkeypatch.setenv("http_proxy", "http://p:1")
    monkeypatch.setenv("no_proxy", entries)
    assert excluded == (proxy_for("http", host, port) is None)


# ---- certificates ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of a CA."""
    folder = tmp_path_factory.mktemp("ca")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    )
    try:
        subprocess.run(
            [*command.split(), "-keyout", "key.pem", "-out", "ca.pem"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no openssl to make a certificate with")
    return folder / "ca.pem"


def test_the_hashed_directory_of_the_system_is_used_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL gets the path of the hashed directory, so that no certificate is parsed at the start."""
    (tmp_path / "0a1b2c3d.0").touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(_network, "_SYSTEM_DIRECTORIES", ())
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: _paths(empty))
    assert _network._hashed_directory() is None
    monkeypatch.setattr(_network, "_SYSTEM_DIRECTORIES", (str(tmp_path / "missing"), str(tmp_path)))
    assert str(tmp_path) == _network._hashed_directory()
    context = tls_context(None)
    assert (0, ssl.CERT_REQUIRED, True) == (
        context.cert_store_stats()["x509"],
        context.verify_mode,
        context.check_hostname,
    )


def test_certifi_is_the_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without certificates, such as a minimal container, uses those of certifi."""
    monkeypatch.setattr(_network, "_SYSTEM_DIRECTORIES", ())
    monkeypatch.setattr(_network, "_SYSTEM_FILES", ())
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: _paths(tmp_path))
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda self, purpose: None)
    assert 50 < tls_context(None).cert_store_stats()["x509_ca"]


def test_configured_certificates_are_the_only_ones(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ca_file`, or else SSL_CERT_FILE, replaces the certificates of the system."""
    assert 1 == tls_context(str(certificate)).cert_store_stats()["x509_ca"]
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert 1 == tls_context(None).cert_store_stats()["x509_ca"]


@pytest.mark.parametrize("variable", [None, "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_cannot_be_read(
    variable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the path of the file or directory."""
    missing = str(tmp_path / "missing")
    if variable is not None:
        monkeypatch.setenv(variable, missing)
    with pytest.raises(ConfigurationError, match=missing):
        tls_context(missing if variable is None else None)


def _paths(directory: Path) -> ssl.DefaultVerifyPaths:
    missing = str(directory / "missing")
    return ssl.DefaultVerifyPaths(missing, str(directory), "SSL_CERT_FILE", missing, "SSL_CERT_DIR", missing)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("self-signed certificate", "set ca_file to its certificate"),
        ("unable to get local issuer certificate", "set ca_file"),
        ("invalid peer certificate: UnknownIssuer", "set ca_file"),
        ("invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))", "CA:FALSE"),
        ("IP address mismatch, certificate is not valid for '127.0.0.1'.", "another host"),
        ('certificate not valid for name "127.0.0.1"', "another host"),
        ("certificate has expired", "clock"),
        ("certificate is not yet valid", "clock"),
        ("some other reason", "ca_file"),
    ],
)
def test_a_refused_certificate_has_a_fitting_hint(reason: str, advice: str) -> None:
    """The hint fits the reason. `ca_file`, for example, does not help against a wrong name."""
    assert advice in certificate_hint(reason)
