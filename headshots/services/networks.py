"""Which network a request came from, by the addresses that its hops name.

An address is read, reduced to its network and given to `services.limits`, which keeps a digest of it for a
day. It is never stored and never logged.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Self, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

# One IPv4 address is one household or one provider's gateway. An IPv6 line has at least these many addresses
# to itself (RFC 6177), so counting single ones would count nothing.
IPV4_BITS: Final = 32
IPV6_BITS: Final = 64
UNKNOWN: Final = "unknown"

_PORT: Final = re.compile(r"^(?:\[(?P<v6>[^\]]+)\]|(?P<v4>[0-9.]+))(?::\d{1,5})?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hops:
    """Where a request came from: the other end of its connection, and what proxies say came before it."""

    peer: str = field(repr=False)
    forwarded_for: str = field(default="", repr=False)

    @classmethod
    def of(cls, meta: "dict[str, str]") -> Self:
        """The hops that a WSGI environment names."""
        return cls(peer=meta.get("REMOTE_ADDR", ""), forwarded_for=meta.get("HTTP_X_FORWARDED_FOR", ""))


def network_of(hops: Hops, trusted: Sequence[Network]) -> str:
    """The network of the last hop that is none of our `trusted` proxies; UNKNOWN for one that has no address.

    What stands before that hop was written by a stranger and is not looked at.
    """
    address = _parse(hops.peer)
    ahead = [hop.strip() for hop in hops.forwarded_for.split(",") if hop.strip()]
    while address is not None and ahead and any(address in network for network in trusted):
        before = _parse(ahead.pop())
        if before is None:
            break
        address = before
    if address is None:
        return UNKNOWN
    bits = IPV4_BITS if address.version == 4 else IPV6_BITS
    return str(ip_network(f"{address}/{bits}", strict=False))


def parse_networks(text: str) -> tuple[Network, ...]:
    """The networks of a comma-separated list, "10.0.0.0/8, fd00::/8". Raises ValueError for another text."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def _parse(text: str) -> Address | None:
    """An address, with or without its port; an IPv4 one in IPv6's clothes (RFC 4291, 2.5.5.2) is itself."""
    named = _PORT.match(text)
    try:
        address = ip_address((named["v6"] or named["v4"]) if named else text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
