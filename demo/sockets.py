"""Who listens and who is connected, read from the kernel: the demo believes no one's word."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

LISTEN, ESTABLISHED = "0A", "01"


@dataclass(frozen=True, slots=True)
class Socket:
    """One TCP socket: ports of both ends, its state and inode."""

    local: int
    remote: int
    state: str
    inode: int


def table() -> tuple[Socket, ...]:
    """Return every TCP socket of this network namespace."""
    found: list[Socket] = []
    for name in ("tcp", "tcp6"):
        lines = Path("/proc/net", name).read_text().splitlines()[1:]
        for fields in map(str.split, lines):
            local, remote = (int(end.rpartition(":")[2], 16) for end in fields[1:3])
            found.append(Socket(local, remote, fields[3], int(fields[9])))
    return tuple(found)


def inodes(pid: int) -> frozenset[int]:
    """Return the inodes of the sockets that a process holds; empty when it is gone."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(link.readlink())
                if target.startswith("socket:["):
                    found.add(int(target[8:-1]))
    return frozenset(found)


def family(pid: int) -> frozenset[int]:
    """Return a process and all its descendants."""
    found = {pid}
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found |= family(int(child))
    return frozenset(found)


def listeners(pid: int) -> frozenset[int]:
    """Return the ports on which a process or a descendant of it listens."""
    held = frozenset().union(*(inodes(member) for member in family(pid)))
    return frozenset(s.local for s in table() if s.state == LISTEN and s.inode in held)


def clients(port: int) -> frozenset[int]:
    """Return the pids of this machine's processes that are connected to `port` right now."""
    wanted = {s.inode for s in table() if s.remote == port and s.state == ESTABLISHED and s.inode}
    if not wanted:
        return frozenset()
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return frozenset(pid for pid in pids if inodes(pid) & wanted)


def command_line(pid: int) -> str:
    """Return the command line of a process, its words separated by spaces; empty when gone."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()
