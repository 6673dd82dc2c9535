"""Tells the service manager how a process is, by the socket that it named (sd_notify(3)).

No library: one datagram. Without a service manager nothing happens.
"""

from __future__ import annotations

import os
import socket

READY, ALIVE, STOPPING = "READY=1", "WATCHDOG=1", "STOPPING=1"


def notify(state: str) -> bool:
    """Return whether the service manager was sent `state`; it never makes its caller fail."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address[0] == "@":
        address = f"\0{address[1:]}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as way:
            way.setblocking(False)
            way.sendto(state.encode("ascii"), address)
    except OSError:
        return False
    return True
