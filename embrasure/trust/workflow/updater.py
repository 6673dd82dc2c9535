"""python-tuf's Updater with a given time, bounded delegations, and errors in our words."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import tuf
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Key, Role, Root, Signed, Snapshot, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from embrasure import descriptor, limits
from embrasure.errors import Damaged, EmbrasureError, NotFound, Refused, Unavailable
from embrasure.fs import Folder
from embrasure.trust.generation import HISTORY, read_generation
from embrasure.trust.keymaterial import material
from embrasure.trust.workflow.versions import Keys, plain
from embrasure.trust.workflow.vouching import TrustedSet

# Nothing has expired then: for those who leave expiry to `decide`, step 2 (`Role.expires`).
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
# What python-tuf's objects trip over: it checks signatures strictly, and forms loosely.
OUTSIDE = (RepositoryError, ValueError, TypeError, AttributeError, KeyError, RecursionError)
METADATA = "metadata/"  # base url: a url is then a repository path


def check_library(version: str = tuf.__version__) -> None:
    """Return only with a python-tuf that this wrapper was written for; raises Damaged.

    7.0.0 follows diamond delegations (#2977) and ends silently on a broken stream; 8 is unread.
    """
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if not (7, 0, 1) <= numbers < (8,):
        raise Damaged("python-tuf", expected=">= 7.0.1, < 8", got=version, reason="dependency")


check_library()


def check_keys(name: str, role: Role, keys: Mapping[str, Key]) -> None:
    """Return only when 1 <= threshold <= distinct keys <= limit for the role; raises Refused.

    Distinct by what they are: one key under two ids would count as two persons. A threshold of 0
    once disabled all checks of another client (CVE-2026-23992).
    """
    held = [keys[keyid] for keyid in role.keyids if keyid in keys]
    distinct = {material(key) for key in held}
    if not 1 <= role.threshold <= len(distinct) == len(held) <= limits.KEYS_PER_ROLE:
        raise Refused(
            f"role {name}",
            expected=f"1 <= threshold <= distinct keys <= {limits.KEYS_PER_ROLE}",
            got=f"threshold {role.threshold}, {len(distinct)} keys under {len(held)} ids",
            reason="threshold",
        )


class ClockedUpdater(Updater):
    """One refresh. `parents`: role -> delegator of each targets role that was verified."""

    def __init__(
        self,
        folder: Path,
        anchor: bytes,
        fetcher: FetcherInterface,
        *,
        at: datetime,
        url: str,
        known_root: int,
    ) -> None:
        """Trust `anchor`; files verified on the way are in `folder`.

        at: the time that expiry is measured against, fixed for this refresh
        known_root: root version verified before; the steps to it are read from disk
        """
        self.parents: dict[str, str] = {}
        config = UpdaterConfig(
            # python-tuf counts stored steps too: without them a fleet would end at its 65th root.
            max_root_rotations=limits.ROOT_STEPS + known_root,
            max_delegations=limits.VISITED_ROLES,
            root_max_length=limits.ROOT_BYTES,
            timestamp_max_length=limits.TIMESTAMP_BYTES,
            snapshot_max_length=limits.SNAPSHOT_BYTES,
            targets_max_length=limits.TARGETS_BYTES,
        )
        # Always the anchor: with `bootstrap=None` the cached root would be the trust anchor.
        super().__init__(str(folder), url, fetcher=fetcher, config=config, bootstrap=anchor)
        self._trusted_set = TrustedSet(anchor)
        self._trusted_set.reference_time = at

    # What it stores goes through the one port to the disk; the generation is synced as a whole.

    def _persist_file(self, filename: str, data: bytes) -> None:
        path = Path(filename)
        fresh = f".{path.name}.new"
        with Folder.open(path.parent) as folder:
            folder.unlink(fresh, missing_ok=True)
            try:
                folder.write(fresh, [data], mode=0o600)
                folder.rename(fresh, folder, path.name, replace=True)
            except EmbrasureError:
                folder.unlink(fresh, missing_ok=True)
                raise

    def _persist_root(self, version: int, data: bytes) -> None:
        # Its folder is there: a generation begins with it, and with the steps that are known.
        name = f"{HISTORY}/{version}.root.json"
        if read_generation(Path(self._dir), name, limit=len(data)) != data:
            self._persist_file(str(Path(self._dir, name)), data)

    def _update_root_symlink(self) -> None:
        name = f"{Root.type}.json"
        target = f"{HISTORY}/{self._trusted_set.root.version}.{name}"
        with Folder.open(Path(self._dir)) as folder:
            with suppress(EmbrasureError):
                if folder.readlink(name) == target:
                    return
            folder.unlink(name, missing_ok=True)
            folder.symlink(target, name)

    def _load_timestamp(self) -> None:
        # The root is final here, and nothing that it delegates has been looked at.
        root = self._trusted_set.root
        for name, role in root.roles.items():
            check_keys(name, role, root.keys)
        super()._load_timestamp()

    def _load_targets(self, role: str, parent_role: str) -> Targets:
        parent = self._trusted_set.get(parent_role)
        if isinstance(parent, Targets) and parent.delegations is not None:
            named = (parent.delegations.roles or {}).get(role)
            if named is not None:
                check_keys(role, named, parent.delegations.keys)
        found = super()._load_targets(role, parent_role)
        self.parents[role] = parent_role
        return found

    @property
    def snapshot(self) -> Snapshot:
        """The verified snapshot; only after `refresh`."""
        return self._trusted_set.snapshot

    @property
    def targets(self) -> Targets:
        """The verified top-level targets; only after `refresh`."""
        return self._trusted_set.targets

    def load_role(self, role: str) -> None:
        """The role that `targets` delegates is verified, fetched if need be."""
        self._load_targets(role, Targets.type)

    def ignore_expiry(self) -> None:
        """Roles loaded from now on may have expired; only after `refresh`, which checked the top.

        For who passes metadata on and decides nothing with it: a mirror, the gateway.
        """
        self._trusted_set.reference_time = BEGINNING

    def trusted(self) -> dict[str, Signed]:
        """Return what was verified, by role; on the way also what is not yet final."""
        names = (Root.type, Timestamp.type, Snapshot.type, *self.parents)
        return {name: self._trusted_set[name] for name in names if name in self._trusted_set}

    def keys(self) -> Keys:
        """Return the key ids of each role that the verified metadata delegates, as floors do."""

        def ids(role: Role) -> frozenset[str]:
            return frozenset(plain(keyid) for keyid in role.keyids)

        found = {name: ids(role) for name, role in self._trusted_set.root.roles.items()}
        for name in self.parents:
            targets = self._trusted_set[name]
            if isinstance(targets, Targets) and targets.delegations is not None:
                for child, role in (targets.delegations.roles or {}).items():
                    name_held = plain(child)
                    found[name_held] = found.get(name_held, frozenset()) | ids(role)
        return found


_REASONS: tuple[tuple[type[RepositoryError], str, str], ...] = (
    (ExpiredMetadataError, "expired", "metadata that has not expired"),
    (BadVersionNumberError, "rollback", "no version behind one seen before"),
    (UnsignedMetadataError, "threshold", "signatures of its threshold"),
    (LengthOrHashMismatchError, "bad-hash", "the length and hash that were signed"),
)


def explained(problem: Exception, what: str) -> EmbrasureError:
    """Return our error for one of python-tuf's about the file `what`.

    Source: tuf.api.exceptions 7.0.1.
    """
    if isinstance(problem, DownloadHTTPError):
        kind = NotFound if problem.status_code in (403, 404) else Unavailable
        return kind(what, expected="a file that the metadata names", got=problem)
    if isinstance(problem, DownloadLengthMismatchError):
        return Refused(what, expected="no more bytes than allowed", got=problem, reason="limit")
    if isinstance(problem, DownloadError):
        return Unavailable(what, expected="the whole file", got=problem)
    if isinstance(problem, OSError):
        return descriptor.explained(problem, what)
    for kind_of, reason, expected in _REASONS:
        if isinstance(problem, kind_of):
            return Refused(
                what,
                expected=expected,
                got=problem,
                untouched="the metadata trusted before",
                reason=reason,
            )
    return Refused(what, expected="metadata that verifies", got=problem, reason="bad-metadata")
