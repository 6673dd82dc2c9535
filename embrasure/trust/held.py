"""The files of offline roles on this disk, and what is newest of them.

Every file is read each time; when each has the bytes that it had, so has the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from embrasure import limits
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from embrasure.trust.generation import COMPLETE, CURRENT, read_generation
from embrasure.trust.offline import Offline, Stored, newest
from embrasure.trust.workflow.session import stored_name

Look = tuple[str, int, tuple[bytes, ...]]  # role, version (of root), and the files that were there


class HeldFiles:
    """What came by the door, and what refreshes left. Threads may share it."""

    def __init__(self, folder: Path, client: TrustClient, *, env: str) -> None:
        """folder: of the door; env: whose fleet role counts, empty for all."""
        self._folder, self._client, self._env = folder, client, env
        self._last: tuple[Sequence[Look], Offline] | None = None

    def newest(self, also: Stored | None = None) -> Offline:
        """Return the newest roles that verify, the files in `also` among them."""
        while True:
            folders = self._folders()
            found = self._newest(folders, also)
            if self._folders() == folders:  # else one may have gone while it was read
                return found

    def _newest(self, folders: Sequence[Path], also: Stored | None) -> Offline:
        if also is None and self._last is not None:
            looks, last = self._last
            if all(_files(folders, role, version) == files for role, version, files in looks):
                return last
        read: list[Look] = []

        def stored(role: str, version: int) -> Iterable[bytes]:
            files = _files(folders, role, version)
            read.append((role, version, files))
            return (*files, *(also(role, version) if also is not None else ()))

        found = newest(self._client.anchor, stored, env=self._env)
        if also is None:
            self._last = (read, found)
        return found

    def files(self, role: str, version: int) -> Sequence[bytes]:
        """Return the files that may be this role, of root this version."""
        return _files(self._folders(), role, version)

    def stamp(self) -> tuple[object, ...]:
        """Return a value that changes when any process has taken or verified something."""
        files = sorted(self._folder.glob("*.json"))
        current = self._client.workflow.generations.linked(CURRENT)
        return (current, *((file.name, file.stat().st_mtime_ns) for file in files))

    def _folders(self) -> tuple[Path, ...]:
        generations = self._client.workflow.generations
        links = [generations.linked(link) for link in (CURRENT, COMPLETE)]
        return tuple(dict.fromkeys((self._folder, *(link for link in links if link is not None))))


def _files(folders: Sequence[Path], role: str, version: int) -> tuple[bytes, ...]:
    """Return what lies there of a role. The door keeps no root: its steps are in generations."""
    name = stored_name(role, version)
    found = [
        read_generation(folder, name, limit=limits.TARGETS_BYTES)
        for folder in (folders if role != layout.ROOT else folders[1:])
    ]
    return tuple(raw for raw in found if raw is not None)
