"""Where something is dialled, as people write it: HOST:PORT, and nothing that gRPC would follow."""

from __future__ import annotations

import ipaddress
import re

from embrasure.errors import Misuse

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")


def check_address(text: str) -> str:
    """Return `text` when it is HOST:PORT (IPv6 in brackets); raises Misuse."""
    host, _, port = text.rpartition(":")
    if not _PORT.fullmatch(port) or int(port) > 65535 or not _is_host(host):
        raise Misuse("address", expected="HOST:PORT", got=text)
    return text


def _is_host(host: str) -> bool:
    if host.startswith("[") and host.endswith("]"):
        try:
            return bool(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            return False
    # A scheme such as `unix:` never gets here: gRPC would follow it.
    return _HOST.fullmatch(host) is not None


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of an address for a socket; raises Misuse."""
    host, _, port = check_address(address).rpartition(":")
    return host.strip("[]"), int(port)
