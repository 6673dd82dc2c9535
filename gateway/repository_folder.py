"""The repository as it lies on disk: read without belief, written so that it appears at once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from embrasure import fs, limits
from embrasure.errors import EmbrasureError, NotFound
from embrasure.trust import layout
from gateway import metadata as form

FILE_MODE, FOLDER_MODE = 0o644, 0o755  # public: any web server may read it
LAST = "metadata/timestamp.json"
KEPT = 32  # versions of snapshot and gates that stay


class RepositoryFolder:
    """The files of one repository. Whoever uses what is read here verifies it next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, path: str, *, limit: int) -> bytes:
        """Return a file; raises NotFound, Refused."""
        layout.parse_file(path)
        return fs.read_file(self.folder / path, limit=limit)

    def role_file(self, role: str, version: int) -> bytes:
        """Return one metadata file; raises NotFound, Refused."""
        return self.read(layout.metadata_file(role, version), limit=form.limit_of(role))

    def timestamp(self) -> Timestamp | None:
        """Return the timestamp, None before the first publication.

        One that the newest root here does not vouch for counts as none: the folder came from a
        mirror, and its former publisher's keys were stolen.
        """
        try:
            raw = self.read(LAST, limit=limits.TIMESTAMP_BYTES)
        except NotFound:
            return None
        found = form.read_metadata(raw, Timestamp, layout.TIMESTAMP)
        version = self.root_version()
        if version:
            root = form.read_metadata(self.role_file(layout.ROOT, version), Root, layout.ROOT)
            if not form.is_signed(root.signed, layout.TIMESTAMP, found):
                return None
        return found.signed

    def listed(self) -> dict[str, int]:
        """Return role -> version: what the current snapshot lists, or before the first one the
        newest file of each role.
        """
        last = self.timestamp()
        if last is None:
            return self._newest()
        raw = self.role_file(layout.SNAPSHOT, last.snapshot_meta.version)
        return form.listed_roles(form.read_metadata(raw, Snapshot, layout.SNAPSHOT).signed)

    def _newest(self) -> dict[str, int]:
        found = self._versions()
        if layout.TARGETS not in found:
            return {}
        raw = self.role_file(layout.TARGETS, found[layout.TARGETS])
        targets = form.read_metadata(raw, Targets, layout.TARGETS).signed
        known = {layout.TARGETS, *form.delegated_names(targets)}
        return {role: version for role, version in found.items() if role in known}

    def _versions(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for file in (self.folder / "metadata").glob("*.*.json"):
            with suppress(EmbrasureError, ValueError):
                layout.parse_file(f"metadata/{file.name}")
                number, role, _ = file.name.split(".")
                found[role] = max(found.get(role, 0), int(number))
        return found

    def root_version(self) -> int:
        """Return the version of the newest root file, 0 for none."""
        return self._versions().get(layout.ROOT, 0)

    def prune(self, roles: Mapping[str, int]) -> int:
        """Return how many old files of online roles are gone; the last `KEPT` of each stay, for
        nodes and mirrors that are in the middle of a refresh.

        roles: snapshot and `gates-<env>` with their published versions
        """
        gone = 0
        with fs.Folder.open(self.folder) as top, top.child("metadata") as metadata:
            for name in metadata.list():
                number, _, role = name.removesuffix(".json").partition(".")
                if role in roles and number.isdigit() and int(number) <= roles[role] - KEPT:
                    metadata.unlink(name, missing_ok=True)
                    gone += 1
        return gone

    def write(self, files: Mapping[str, bytes]) -> None:
        """Every file is on disk; the timestamp, which makes them visible, is the last one."""
        with fs.Folder.open(self.folder) as top:
            for path in sorted(files, key=lambda name: (name == LAST, name)):
                layout.parse_file(path)
                folder, _, name = path.rpartition("/")
                inner = top
                for part in folder.split("/"):
                    inner = inner.ensure(part, mode=FOLDER_MODE)
                inner.replace(name, files[path], mode=FILE_MODE)
