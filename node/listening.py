"""Who answers on a loopback port: the proof that a probe talked to the new release.

Kept against: the old process, or any other, that still holds the port and passes the test.
"""

from __future__ import annotations

import _socket  # see prober.py: no `socket`, no `contextlib`
import errno
import posix as os
import struct

TYPE_CHECKING = False  # as in `typing`, without its import
if TYPE_CHECKING:
    from collections.abc import Iterable

_LISTEN = b"0A"
_V4_LOOPBACK, _V4_ANY = b"0100007F", b"00000000"
_V6_MAPPED, _V6_ANY = b"0000000000000000FFFF00000100007F", b"0" * 32
Listening = tuple[bytes, int, int, int]  # address as /proc/net has it, port, inode, user id
# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_SOCK_DIAG, _BY_FAMILY, _DUMP, _DONE, _LISTEN_STATE = 4, 20, 0x301, 3, 10
_CHANGED = 0x10  # NLM_F_DUMP_INTR: one may be missing
_HEAD = struct.Struct("=IHHII")  # struct nlmsghdr
_SOCKET = struct.Struct("=Bxxx2s2x16s28x12xII")  # family, port, address, uid, inode
_ANSWER_SECONDS = 1.0  # the kernel answers at once
# The kernel hands a connection to 127.0.0.1 to the first of these that somebody is bound to.
_TIERS = (frozenset({_V4_LOOPBACK, _V6_MAPPED}), frozenset({_V4_ANY}), frozenset({_V6_ANY}))


def listeners(port: int, tables: Iterable[bytes] | None = None) -> frozenset[int]:
    """Return the inodes of all sockets that may be given a connection to 127.0.0.1:`port`.

    tables: contents of /proc/net/tcp and tcp6 (default: the kernel is asked now). Several sockets
    can share a port (SO_REUSEPORT): every one of them is returned.
    """
    return frozenset(inode for inode, _ in _first(port, tables))


def owners(port: int, tables: Iterable[bytes] | None = None) -> frozenset[int]:
    """Return the user ids of those sockets; none when nobody of this host listens there."""
    return frozenset(uid for _, uid in _first(port, tables))


def _first(port: int, tables: Iterable[bytes] | None) -> frozenset[tuple[int, int]]:
    """Return (inode, user id) of each socket of the first tier that somebody is bound to."""
    every = _ask_kernel() if tables is None else _all_of(tables)
    found = [(address, inode, uid) for address, number, inode, uid in every if number == port]
    for tier in _TIERS:
        sockets = frozenset((inode, uid) for address, inode, uid in found if address in tier)
        if sockets:
            return sockets
    return frozenset()


def _ask_kernel() -> list[Listening]:
    """Return every listening socket of this host's network.

    /proc/net/tcp would do, and goes through every connection there could be: 7 ms of processor
    time, twice a probe. Asked for listening sockets alone, the kernel looks at nothing else. A
    service manager's filter may forbid that socket; then the tables are read.
    """
    try:
        return [one for family in (_socket.AF_INET, _socket.AF_INET6) for one in diagnosed(family)]
    except OSError:
        return _all_of(_table(path) for path in ("/proc/net/tcp", "/proc/net/tcp6"))


def _table(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # see prober.py: no pathlib
            return file.read()
    except FileNotFoundError:
        return b""  # a kernel without IPv6


def diagnosed(family: int) -> list[Listening]:
    """Return the listening sockets of one family, as the kernel's sock_diag(7) tells them."""
    question = struct.pack("=BBxxI48x", family, _socket.IPPROTO_TCP, 1 << _LISTEN_STATE)
    head = _HEAD.pack(_HEAD.size + len(question), _BY_FAMILY, _DUMP, 1, 0)
    found: list[Listening] = []
    kernel = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, _SOCK_DIAG)
    try:
        kernel.settimeout(_ANSWER_SECONDS)
        kernel.send(head + question)
        while True:
            answer, (sender, _) = kernel.recvfrom(1 << 16)
            while answer and sender == 0:  # the kernel's own, nobody else's
                length, kind, flags, *_ = _HEAD.unpack_from(answer)
                if flags & _CHANGED:
                    raise OSError(errno.EINTR, "sockets that changed while they were listed")
                if kind == _DONE:
                    return found
                if kind != _BY_FAMILY or length < _HEAD.size + _SOCKET.size:
                    raise OSError(errno.EPROTO, "another answer than asked for")
                family_is, port, address, uid, inode = _SOCKET.unpack_from(answer, _HEAD.size)
                words = struct.unpack("=4I", address)[: 1 if family_is == _socket.AF_INET else 4]
                text = b"".join(b"%08X" % word for word in words)  # as /proc/net writes it
                found.append((text, port[0] << 8 | port[1], inode, uid))
                answer = answer[(length + 3) & ~3 :]
    finally:
        kernel.close()


def _all_of(tables: Iterable[bytes]) -> list[Listening]:
    return [one for text in tables for one in _listening(text)]


def _listening(text: bytes) -> list[Listening]:
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
        for target in _opened(pid):
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    return frozenset(found)


def _opened(pid: int) -> list[str]:
    """Return what the descriptors of a process stand for; none of one that ended or is not ours."""
    found, folder = [], f"/proc/{pid}/fd"
    try:
        for name in os.listdir(folder):  # no pathlib
            try:
                found.append(os.readlink(f"{folder}/{name}"))  # the same
            except OSError:
                continue
    except OSError:
        pass
    return found


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
