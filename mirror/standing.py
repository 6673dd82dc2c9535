"""Whether a metadata file that is shown still counts, by the newest root and targets seen here.

After a theft the online keys are new, and whoever publishes with them begins at 1 again. What the
stolen keys have signed must not keep the file names.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tuf.api.metadata import Metadata, Root, Snapshot, Targets

from embrasure import limits
from embrasure.errors import EmbrasureError
from embrasure.fs import Folder, read_file
from embrasure.trust import layout
from embrasure.trust.canonical import check_depth, sha256_hex
from embrasure.trust.door import Door
from embrasure.trust.offline import Offline, check_delegation, verify_role
from embrasure.trust.workflow.updater import OUTSIDE
from embrasure.trust.workflow.verified import delegations

_VERDICTS = 4_096  # remembered: a file and the delegator that judged it
_CAME = 64  # targets files in the inbox that are looked at


class Standing:
    """Judges shown files. Roots and targets that came and are not shown yet count too: each
    verifies by itself, and a publication brings them first.
    """

    def __init__(self, door: Door, inbox: Path, public: Path) -> None:
        self._door, self._inbox, self._public = door, inbox, public
        self._verdicts: OrderedDict[tuple[str, str, str], bool] = OrderedDict()
        self._newest: tuple[object, Offline] | None = None

    def counts(self, path: str) -> bool:
        """Return whether the file shown as `path` keeps its name.

        Only metadata with a number may lose it: root steps prove one another, documents and blobs
        are named by their bytes.
        """
        role = role_of(path)
        if role in ("", layout.ROOT):
            return True
        try:
            raw = read_file(self._public / path, limit=limits.TARGETS_BYTES)
            newest = self._offline()
        except EmbrasureError:
            return True  # what cannot be judged is not touched
        delegator = newest.files.get(
            layout.ROOT if role in layout.TOP_ROLES else layout.TARGETS, b""
        )
        key = (path, sha256_hex(raw), sha256_hex(delegator))
        if key not in self._verdicts:
            self._verdicts[key] = is_vouched(raw, role, newest)
            while len(self._verdicts) > _VERDICTS:
                self._verdicts.popitem(last=False)
        return self._verdicts[key]

    def _offline(self) -> Offline:
        stamp = (self._door.stamp(), tuple(self._came("")))
        if self._newest is None or self._newest[0] != stamp:
            self._newest = (stamp, self._door.newest(self._stored))
        return self._newest[1]

    def _came(self, role: str) -> list[str]:
        """Return the names in the inbox of root and targets, of `role` alone if it is given."""
        with suppress(EmbrasureError), Folder.open(self._inbox) as held:
            if held.has("metadata"):
                with held.child("metadata") as metadata:
                    names = sorted(
                        name
                        for name in metadata.list()
                        if role_of(f"metadata/{name}") in ({role} if role else _FIRST)
                    )
                return names[: _CAME + limits.ROOT_STEPS]
        return []

    def _stored(self, role: str, version: int) -> Iterator[bytes]:
        names = [f"{version}.root.json"] if role == layout.ROOT else self._came(role)[:_CAME]
        for name in names if role in _FIRST else ():
            with suppress(EmbrasureError):
                yield read_file(self._inbox / "metadata" / name, limit=limits.TARGETS_BYTES)


_FIRST = frozenset({layout.ROOT, layout.TARGETS})


def role_of(path: str) -> str:
    """Return the role of a metadata file with a number, empty for every other path."""
    folder, _, file = path.rpartition("/")
    number, _, role = file.removesuffix(".json").partition(".")
    return role if folder == "metadata" and number.isdigit() else ""


def is_vouched(raw: bytes, role: str, newest: Offline) -> bool:
    """Return whether the newest root and targets vouch for this file of `role`."""
    try:
        if role in (layout.SNAPSHOT, layout.TARGETS):
            check_delegation(role, newest.root)
        if role == layout.SNAPSHOT:
            check_depth(raw, role)
            found = Metadata[Snapshot].from_bytes(raw)
            newest.root.verify_delegate(role, found.signed_bytes, found.signatures)
            return isinstance(found.signed, Snapshot)
        delegator: Root | Targets | None = newest.root if role == layout.TARGETS else newest.targets
        if delegator is None or (role != layout.TARGETS and role not in delegations(delegator)):
            return delegator is None  # before any targets nothing can be judged
        verify_role(raw, role, delegator)
    except (EmbrasureError, *OUTSIDE):
        return False
    return True
