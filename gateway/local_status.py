"""How a gateway is, read from its folder: for its administrator, without keys or network."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Snapshot, Targets, Timestamp

from embrasure import fs, limits
from embrasure.clock import write_time
from embrasure.errors import EmbrasureError, Unavailable
from embrasure.trust import layout
from gateway import metadata as form
from gateway.config import Paths, read_config


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """One published role, as its file says."""

    name: str
    version: int
    until: str
    expired: bool


@dataclass(frozen=True, slots=True)
class LocalStatus:
    """A gateway's folder; port: 0 when no process runs."""

    name: str
    port: int
    roles: tuple[RoleStatus, ...]

    def as_json(self) -> dict[str, object]:
        """Return what `--json` shows."""
        return {
            "name": self.name,
            "running": self.port != 0,
            "port": self.port,
            "roles": [asdict(role) for role in self.roles],
        }


def local_status(folder: Path, *, at: datetime) -> LocalStatus:
    """Return how the gateway of `folder` is; its files are read, not verified."""
    config, paths = read_config(folder), Paths(folder)
    return LocalStatus(config.name, _port(paths), tuple(_roles(paths.repository, at)))


def _port(paths: Paths) -> int:
    # Who can take the lock shows that nobody holds it; a stale ports.json says nothing.
    with suppress(Unavailable), fs.lock(paths.state / "lock", seconds=0):
        return 0
    try:
        found = json.loads(fs.read_file(paths.folder / "ports.json", limit=limits.KIB))
        return int(found["admin"])
    except (EmbrasureError, ValueError, KeyError, TypeError):
        return 0


def _roles(repository: Path, at: datetime) -> list[RoleStatus]:
    try:
        raw = fs.read_file(repository / "metadata/timestamp.json", limit=limits.TIMESTAMP_BYTES)
    except Unavailable:
        return []
    timestamp = form.read_metadata(raw, Timestamp, layout.TIMESTAMP).signed
    number = timestamp.snapshot_meta.version
    raw = _file(repository, layout.SNAPSHOT, number)
    snapshot = form.read_metadata(raw, Snapshot, layout.SNAPSHOT).signed
    found = [
        _status(layout.TIMESTAMP, timestamp.version, timestamp.expires, at),
        _status(layout.SNAPSHOT, number, snapshot.expires, at),
    ]
    for role, version in sorted(form.listed_roles(snapshot).items()):
        signed = form.read_metadata(_file(repository, role, version), Targets, role).signed
        found.append(_status(role, version, signed.expires, at))
    return found


def _file(repository: Path, role: str, version: int) -> bytes:
    path = repository / layout.metadata_file(role, version)
    return fs.read_file(path, limit=form.limit_of(role))


def _status(role: str, version: int, until: datetime, at: datetime) -> RoleStatus:
    return RoleStatus(role, version, write_time(until), at >= until)
