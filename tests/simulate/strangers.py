"""What a user of this machine can do, and what one of its processes may: from outside, by /proc."""

from __future__ import annotations

import subprocess
from pathlib import Path

PYTHON = "/usr/bin/python3"
# Say one thing to a socket, as whoever runs it.
CONNECT = """
import socket, sys
way = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    way.connect(sys.argv[1])
    way.send(b'{"is":"status-ask"}')
    print("answered" if way.recv(65536) else "hung up")
except OSError as problem: print(problem.strerror)
"""


def as_user(uid: int, code: str, *words: object) -> str:
    """Return what a Python program of that user prints."""
    done = subprocess.run(
        ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", PYTHON, "-I", "-S",
         "-c", code, *map(str, words)],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    return done.stdout + done.stderr


def facts(pid: int | str) -> dict[str, str]:
    """Return the lines of /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def rights(pid: int) -> list[tuple[tuple[str, str, str], str]]:
    """Return what each thread of a process has: three sets of capabilities, and a filter or not."""
    found = [facts(f"{pid}/task/{thread.name}") for thread in Path(f"/proc/{pid}/task").iterdir()]
    return [
        ((one["CapEff"], one["CapPrm"], one["CapBnd"]), one["Seccomp"].strip()) for one in found
    ]


def pids_of(uid: int) -> list[int]:
    """Return the processes of a user."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if facts(int(entry.name))["Uid"].split()[0] == str(uid):
                    found.append(int(entry.name))
            except (OSError, KeyError):
                continue
    return found


def words_of(pid: int) -> bytes:
    """Return the command line of a process, nothing when it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
