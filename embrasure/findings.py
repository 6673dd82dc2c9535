"""What `doctor` found: one line, and one command that mends it; and the checks all folders share.

Nothing here opens a key or changes a file: a look must be safe at any time, by anybody.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Literal

from embrasure import fs, limits
from embrasure.clock import write_time
from embrasure.errors import EmbrasureError, shown
from embrasure.expiry import Item, told

Check = Literal["clock", "disk", "expiry", "half-made", "permissions", "ports", "read", "version"]
# The least versions that we were measured with; pyproject.toml says the same.
LEAST: Mapping[str, str] = {
    "click": "8.1",
    "cryptography": "50",
    "grpcio": "1.85",
    "msgspec": "0.22",
    "pynacl": "1.6.2",
    "securesystemslib": "1.6",
    "tuf": "7.0.1",
    "urllib3": "2.2",
}
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.new")
_DEPTH = 4  # folders below the one that is looked at


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. fix: a command to type."""

    check: Check
    thing: str
    what: str
    fix: str

    def as_json(self) -> dict[str, str]:
        """Return the row of `--json`."""
        return {"check": self.check, "thing": self.thing, "what": self.what, "fix": self.fix}

    def lines(self) -> list[str]:
        """Return the finding and its fix, a line each."""
        return [f"{self.check}: {self.thing}: {self.what}", f"  fix: {self.fix}"]


def typed(*words: str | Path) -> str:
    """Return a command as it can be typed, each word quoted."""
    return shlex.join(map(str, words))


def host() -> list[Finding]:
    """Return what is wrong with this installation."""
    return list(versions(LEAST, _installed))


def versions(least: Mapping[str, str], installed: Callable[[str], str | None]) -> Iterator[Finding]:
    """Yield the libraries that are older than they may be, or missing."""
    for name, wanted in least.items():
        found = installed(name)
        if found is None or _numbers(found) < _numbers(wanted):
            fix = typed("python3", "-m", "pip", "install", f"{name}>={wanted}")
            yield Finding("version", name, f"expected {wanted} or newer, got {found}", fix)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", text)[:3])


def ends(read: Callable[[], Iterable[Item]], at: datetime) -> Iterator[Finding]:
    """Yield what has ended or ends inside its window; what cannot be read is a finding itself."""
    try:
        items = list(read())
    except EmbrasureError as problem:
        yield Finding("read", problem.thing, str(problem), problem.hint or "embrasure --help")
        return
    for item in told(items, at):
        yield Finding("expiry", item.holder, item.sentence(at), item.command)


def private(paths: Iterable[Path]) -> Iterator[Finding]:
    """Yield the files that are not ours alone."""
    for path in paths:
        try:
            found = path.lstat()
        except OSError:
            continue
        if stat.S_ISLNK(found.st_mode):
            yield Finding("permissions", str(path), "is a link", typed("readlink", "-f", path))
        elif found.st_uid != os.geteuid():
            what = f"belongs to user {found.st_uid}"
            yield Finding("permissions", str(path), what, typed("chown", f"{os.geteuid()}", path))
        elif found.st_mode & 0o077:
            what = f"mode {stat.S_IMODE(found.st_mode):04o}: others may read it"
            yield Finding("permissions", str(path), what, typed("chmod", "600", path))
        elif found.st_nlink != 1:
            what = f"has {found.st_nlink} names"
            yield Finding(
                "permissions", str(path), what, typed("find", "/", "-xdev", "-samefile", path)
            )


def unshared(paths: Iterable[Path]) -> Iterator[Finding]:
    """Yield the files that another user may write."""
    for path in paths:
        try:
            fs.check_unshared(path.lstat(), str(path))
        except OSError:
            continue
        except EmbrasureError as problem:
            fix = typed("chmod", "go-w", path)
            yield Finding("permissions", str(path), f"got {problem.got}", fix)


def clock(
    at: datetime, signed: Iterable[tuple[str, datetime]], *, newest: datetime | None = None
) -> Iterator[Finding]:
    """Yield when this host's clock is behind what was signed.

    signed: (what, when it was signed). A clock far ahead shows as everything being expired.
    """
    ahead = [(when, what) for what, when in signed]
    if newest is not None:
        ahead.append((newest, "the time floor"))
    if not ahead:
        return
    when, what = max(ahead)
    late = (when - at).total_seconds()
    if late > limits.SKEW_SECONDS:
        told_by = f"{int(late)} s behind {what}, signed at {write_time(when)}"
        yield Finding("clock", "this host", told_by, "timedatectl set-ntp true")


def disk(folder: Path, *, least: int = limits.FREE_BYTES) -> Iterator[Finding]:
    """Yield when the file system of `folder` has less room than is kept free."""
    found, kept = os.statvfs(folder), fs.free(folder)
    total = found.f_blocks * found.f_frsize
    wanted = min(least, total * limits.FREE_PERCENT // 100)
    if kept.bytes < wanted:
        what = f"{kept.bytes} bytes free, {wanted} are kept free"
        yield Finding("disk", str(folder), what, typed("du", "-xsh", folder))
    if kept.inodes < limits.INODES_KEPT:
        yield Finding("disk", str(folder), f"{kept.inodes} inodes free", typed("df", "-i", folder))


def ports(
    file: Path, listens: Mapping[str, str], *, running: bool, start: str
) -> Iterator[Finding]:
    """Yield listeners that do not answer, and ports that somebody else has.

    file: `ports.json`; listens: name -> configured address; running: the process holds its lock
    """
    found = _ports(file)
    if running and not found:
        yield Finding("ports", str(file), "the process runs and names no port", start)
    if not running and found:
        what = "names ports, and no process runs"
        yield Finding("ports", str(file), what, start)
    for name, address in listens.items():
        where, _, number = address.rpartition(":")
        address_of = where.strip("[]")
        if running and name in found and not _answers(address_of, found[name]):
            what = f"nothing answers at {where}:{found[name]}"
            yield Finding("ports", name, what, start)
        if not running and number != "0" and _answers(address_of, int(number)):
            what = f"{address} is taken by another process"
            yield Finding("ports", name, what, typed("ss", "-ltnp", f"sport = :{number}"))


def reach(address: str, name: str, *, fix: str) -> Iterator[Finding]:
    """Yield when nothing answers at `address`, which is elsewhere."""
    where, _, number = address.rpartition(":")
    if not number.isdigit() or not _answers(where.strip("[]"), int(number)):
        yield Finding("ports", name, f"nothing answers at {address}", fix)


def _ports(file: Path) -> dict[str, int]:
    try:
        found = json.loads(fs.read_file(file, limit=limits.KIB))
        return {shown(name): int(port) for name, port in found.items()}
    except (EmbrasureError, ValueError, AttributeError, TypeError):
        return {}


def _answers(host: str, port: int) -> bool:
    with closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as one:
        one.settimeout(1.0)
        try:
            one.connect((host, port))
        except (OSError, OverflowError):
            return False
    return True


def unfinished(folder: Path, *, fix: str) -> Iterator[Finding]:
    """Yield files that a killed process left half-written; they count for nothing."""
    for path in walk(folder):
        if _TEMPORARY.fullmatch(path.name):
            yield Finding(
                "half-made", str(path), "was never put in its place", fix or typed("rm", path)
            )


def walk(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Yield the files below `folder`, a few levels deep, no link followed."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if depth:
                try:
                    yield from walk(Path(entry.path), depth - 1)
                except OSError:
                    continue
        else:
            yield Path(entry.path)


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock file at `path`; none is made."""
    if not path.exists():
        return False
    try:
        with fs.lock(path, seconds=0):
            return False
    except EmbrasureError:
        return True
