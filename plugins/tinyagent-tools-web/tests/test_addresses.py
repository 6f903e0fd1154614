"""Public addresses, and the forms in which private addresses can be hidden."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagent_tools_web._addresses import parse_address, why_not_public

PUBLIC = [
    "93.184.216.34",
    "1.1.1.1",
    "8.8.8.8",
    "2606:2800:220:1:248:1893:25c8:1946",
    "2001:4860:4860::8888",
    "::ffff:93.184.216.34",
    "64:ff9b::5db8:d822",  # the DNS64 form of a public address in an IPv6-only network
    "2002:5db8:d822::1",
]
NOT_PUBLIC = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255"),
    *("192.168.1.1", "169.254.169.254", "169.254.0.1", "100.64.0.1", "100.127.255.255", "192.0.0.8"),
    *("192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1"),
    *("239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "100::1"),
    *("2001:db8::1", "3fff::1", "5f00::1", "4000::1", "2001::1", "2001:0:5ef5:79fd::1"),
    # another address inside: mapped, compatible, NAT64, local NAT64, 6to4, ISATAP
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::ffff:0.0.0.0", "::ffff:0:7f00:1"),
    *("::127.0.0.1", "::10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::a00:1"),
    *("64:ff9b:1::7f00:1", "64:ff9b:1::5db8:d822", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:c0a8:101::"),
    *("2001:470::5efe:7f00:1", "2001:470::200:5efe:a00:1"),
]


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_pass(text: str) -> None:
    """Assigned public addresses are accepted."""
    assert why_not_public(parse_address(text)) is None


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_other_addresses_are_refused(text: str) -> None:
    """Other addresses are refused with a reason, in every spelling."""
    assert why_not_public(parse_address(text))


@given(st.ip_addresses(v=4))
def test_embedded_addresses_are_checked(address: object) -> None:
    """An IPv4 address inside an IPv6 address is refused if it is refused alone."""
    value = int(address)  # type: ignore[call-overload]
    high, low = value >> 16, value & 0xFFFF
    alone = why_not_public(parse_address(str(address)))
    for disguise in (f"::ffff:{address}", f"64:ff9b::{high:x}:{low:x}", f"2002:{high:x}:{low:x}::1"):
        assert bool(alone) <= bool(why_not_public(parse_address(disguise)))
