"""Where a caller is counted: one address, or of IPv6 the network that one host may fill."""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote


def source_of(peer: str) -> str:
    """Return the address behind gRPC's name of a peer; of IPv6 its /64, which one host may fill."""
    kind, _, rest = peer.partition(":")
    host = unquote(rest).rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return kind
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)  # else all of IPv4 would be one network
    if address.version == 6:
        return str(ipaddress.ip_network(f"{address}/64", strict=False))
    return str(address)
