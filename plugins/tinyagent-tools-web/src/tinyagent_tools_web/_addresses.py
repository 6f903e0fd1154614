"""Decide which addresses belong to the public internet. All others are refused.

IPv6 addresses can embed IPv4 addresses in many ways, and a gateway, a tunnel or the kernel may connect to the
embedded one. So such an address is public only if both addresses are.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

__all__ = ["Address", "parse_address", "why_not_public"]

Address = IPv4Address | IPv6Address

_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all public IPv6 addresses; others are special or unassigned
_NAT64 = IPv6Network("64:ff9b::/96")
_6TO4 = IPv6Network("2002::/16")
_IPV4_COMPATIBLE = IPv6Network("::/96")
_ISATAP = {0x0000_5EFE, 0x0200_5EFE}
_LAST_32_BITS = 0xFFFF_FFFF

# Special networks that some supported Python versions treat as global.
_SPECIAL_4 = [
    IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network; Linux connects 0.0.0.0 to itself
        "100.64.0.0/10",  # carrier-grade NAT, metadata services of some clouds
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
    )
]
_SPECIAL_6 = [
    IPv6Network(block)
    for block in (
        "2001::/23",  # Teredo (which embeds an IPv4 address), ORCHID, benchmarks
        "2001:db8::/32",
        "3fff::/20",
    )
]


def parse_address(text: str) -> Address:
    """Parse an address from a resolver, ignoring its zone (`%eth0`).

    Raises:
        ValueError: The text is not an address.
    """
    return ip_address(text.partition("%")[0])


def why_not_public(address: Address) -> str | None:
    """Return why an address is refused; None if it belongs to the public internet."""
    if isinstance(address, IPv4Address):
        return _why_not_4(address)
    for inner, how in _embedded(address):
        reason = _why_not_4(inner)
        if reason is not None:
            return f"{how} {inner}, {reason}"
    if address.ipv4_mapped is not None or address in _NAT64:
        return None  # the embedded address is public
    if (reason := _kind(address)) is not None:
        return reason
    if address not in _GLOBAL_UNICAST or any(address in block for block in _SPECIAL_6):
        return "a reserved address"
    return None


def _why_not_4(address: IPv4Address) -> str | None:
    if (reason := _kind(address)) is not None:
        return reason
    return "a reserved address" if any(address in block for block in _SPECIAL_4) else None


def _kind(address: Address) -> str | None:
    if address.is_unspecified:
        return "the unspecified address"
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_reserved:
        return "a reserved address"
    if address.is_private:
        return "a private address"
    return None if address.is_global else "not a public address"


def _embedded(address: IPv6Address) -> Iterator[tuple[IPv4Address, str]]:
    """Yield the embedded IPv4 addresses, each with the mechanism that uses it."""
    value = int(address)
    last = IPv4Address(value & _LAST_32_BITS)
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped, "it stands for"
    elif address in _NAT64:
        yield last, "a NAT64 gateway makes it"
    elif address in _6TO4:
        yield IPv4Address((value >> 80) & _LAST_32_BITS), "a 6to4 tunnel makes it"
    elif (value >> 32) & _LAST_32_BITS in _ISATAP:
        yield last, "an ISATAP tunnel makes it"
    elif address in _IPV4_COMPATIBLE and value > 1:
        yield last, "it stands for"
