"""Which addresses a program may be sent to by a stranger: those of the Internet, not those inside.

An address of IPv6 that stands for one of IPv4 (mapped, NAT64, 6to4) is judged as that one.
"""

from enum import Enum
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address


class Reach(Enum):
    """Where an address leads."""

    PUBLIC = "public"
    """To a host of the Internet."""
    PRIVATE = "private"
    """To this host, or to one of its own network."""
    FORBIDDEN = "forbidden"
    """To no other host, to many at once, or to the metadata of a cloud, which hold credentials."""


def _networks(*names: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(map(ip_network, names))


_METADATA = _networks(
    "169.254.0.0/16",  # AWS, Google, Azure and others
    "fe80::/10",
    "fd00:ec2::/32",  # AWS, of IPv6
    "100.100.100.200/32",  # Alibaba
    "168.63.129.16/32",  # Azure, of a public range
    "192.0.0.192/32",  # Oracle
)
_PRIVATE = _networks(
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8"),
    "100.64.0.0/10",  # behind the NAT of a provider
    *("::1/128", "fc00::/7"),
)
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")


def reach_of(address: str | Address) -> Reach:
    """Return where an address leads. Raises `ValueError` for a text that is none."""
    judged = _unwrapped(ip_address(address) if isinstance(address, str) else address)
    if any(judged in network for network in _METADATA):
        return Reach.FORBIDDEN
    if any(judged in network for network in _PRIVATE):
        return Reach.PRIVATE
    is_public = judged.is_global and not judged.is_multicast
    if isinstance(judged, IPv6Address):
        is_public = is_public and judged in _GLOBAL_IPV6
    return Reach.PUBLIC if is_public else Reach.FORBIDDEN


def _unwrapped(address: Address) -> Address:
    """Return the address of IPv4 that one of IPv6 stands for, else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    plain = IPv6Address(int(address))  # without the zone: a network contains none with one
    embedded = plain.ipv4_mapped or plain.sixtofour
    if embedded is not None:
        return embedded
    is_special = plain in (IPv6Address("::"), IPv6Address("::1"))
    if plain in _NAT64 or (plain in _COMPATIBLE and not is_special):
        return IPv4Address(int(plain) & 0xFFFFFFFF)
    return plain
