"""Who answers on a loopback port: the proof that a probe talked to the new release.

Kept against: the old process, or any other, that still holds the port and passes the test.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

_LISTEN = b"0A"
_V4_LOOPBACK, _V4_ANY = b"0100007F", b"00000000"
_V6_MAPPED, _V6_ANY = b"0000000000000000FFFF00000100007F", b"0" * 32
# The kernel hands a connection to 127.0.0.1 to the first of these that somebody is bound to.
_TIERS = (frozenset({_V4_LOOPBACK, _V6_MAPPED}), frozenset({_V4_ANY}), frozenset({_V6_ANY}))


def listeners(port: int, tables: Iterable[bytes] | None = None) -> frozenset[int]:
    """Return the inodes of all sockets that may be given a connection to 127.0.0.1:`port`.

    tables: contents of /proc/net/tcp and tcp6 (default: read now). Several sockets can share a
    port (SO_REUSEPORT): every one of them is returned.
    """
    return frozenset(inode for inode, _ in _first(port, tables))


def owners(port: int, tables: Iterable[bytes] | None = None) -> frozenset[int]:
    """Return the user ids of those sockets; none when nobody of this host listens there."""
    return frozenset(uid for _, uid in _first(port, tables))


def _first(port: int, tables: Iterable[bytes] | None) -> frozenset[tuple[int, int]]:
    """Return (inode, user id) of each socket of the first tier that somebody is bound to."""
    found = [
        (address, inode, uid)
        for text in (_read_tables() if tables is None else tables)
        for address, number, inode, uid in _listening(text)
        if number == port
    ]
    for tier in _TIERS:
        sockets = frozenset((inode, uid) for address, inode, uid in found if address in tier)
        if sockets:
            return sockets
    return frozenset()


def _read_tables() -> list[bytes]:
    paths = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
    return [path.read_bytes() for path in paths if path.exists()]


def _listening(text: bytes) -> list[tuple[bytes, int, int, int]]:
    """Return (address, port, inode, user id) of each listening socket in one table of /proc/net."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTEN:
            address, _, port = fields[1].partition(b":")
            found.append((address, int(port, 16), int(fields[9]), int(fields[7])))
    return found


def sockets_of(pids: Iterable[int]) -> frozenset[int]:
    """Return the inodes of all sockets that these processes hold."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it ended meanwhile, or is not ours
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = str(entry.readlink())
                    if target.startswith("socket:["):
                        found.add(int(target[8:-1]))
    return frozenset(found)


def is_held_by(port: int, pids: Iterable[int]) -> bool:
    """Return whether whoever can answer on 127.0.0.1:`port` is one of `pids`, and no one else."""
    waiting = listeners(port)
    return bool(waiting) and waiting <= sockets_of(pids)


def is_of_stranger(port: int) -> bool:
    """Return whether another user of this host, not root, may answer on 127.0.0.1:`port`; True when
    nobody listens, for then nobody knows who did.
    """
    found = owners(port)
    return not found or not found <= {0, os.geteuid()}
