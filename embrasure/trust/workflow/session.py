"""One refresh, crash-safe: lock, floors, a copy, python-tuf, floors again, one rename."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec
from tuf.api.exceptions import BadVersionNumberError, DownloadError
from tuf.api.metadata import Root, Signed, Snapshot, Timestamp
from tuf.ngclient import FetcherInterface

from embrasure import limits
from embrasure.clock import Clock
from embrasure.errors import EmbrasureError, Refused
from embrasure.fs import Folder, lock
from embrasure.trust import layout
from embrasure.trust.floors import PairStore, TufFloors
from embrasure.trust.generation import COMPLETE, CURRENT, HISTORY, Generations, read_generation
from embrasure.trust.workflow.updater import METADATA, OUTSIDE, ClockedUpdater, explained
from embrasure.trust.workflow.versions import (
    Keys,
    after_reset,
    check_versions,
    plain,
    raised,
    time_floor,
)

Load = Callable[[ClockedUpdater], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Verified:
    """Metadata that verified, and its files byte for byte, both by role."""

    signed: Mapping[str, Signed]
    files: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class _Run:
    """One walk of python-tuf. absent: roles asked for that no metadata names; cause: its error."""

    updater: ClockedUpdater
    absent: Iterable[str]
    problem: EmbrasureError | None = None
    cause: Exception | None = None


class Workflow:
    """The metadata folder of one client: `trusted/<n>`, links, floors, lock."""

    def __init__(
        self,
        folder: Path,
        anchor: bytes,
        *,
        clock: Clock,
        timestamp_s: int,
        url: str = METADATA,
        enrolled: bool = False,
    ) -> None:
        """`folder` exists, mode 0700, with floors.

        timestamp_s: the life a timestamp is signed for, for the time floor
        enrolled: floors were written before; that there are none is then refused
        """
        self.folder = folder
        self.anchor = anchor
        self.clock = clock
        self.timestamp_s = timestamp_s
        self.url = url
        Folder.open(folder, create=True).close()
        self.store = PairStore(folder / "tuf-floors", TufFloors)
        self.generations = Generations(folder)
        if not enrolled and not self.store.exists():
            self._begin()

    def _begin(self) -> None:
        with self._locked():
            # Verified files without floors were robbed of them: only a new folder starts at zero.
            robbed = (self.folder / CURRENT).is_symlink()
            if not robbed and not self.store.exists():
                self.store.create(TufFloors.first())

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return lock(self.folder / "lock", seconds=limits.LOCK_SECONDS)

    def floors(self) -> TufFloors:
        """Return the floors; raises Refused (`no-trust`) when both copies are gone."""
        return self.store.load(repair=False)  # the lock is not held

    def raise_floors(self, *, versions: Mapping[str, int] | None = None, time: int = 0) -> None:
        """No floor is lower than these: of an enrolment answer, or times of verified gates."""
        cap = int(self.clock().timestamp()) + limits.SKEW_SECONDS
        with self._locked():
            floors = self.store.load()
            new = raised(floors, dict(versions or {}), {}, time=min(time, cap))
            if new != floors:
                self.store.save(new)

    def take_offline(
        self, roots: Mapping[int, bytes], versions: Mapping[str, int], keys: Keys
    ) -> None:
        """These root steps are current, and no floor is below these versions; all verified before.

        keys: of every role that the newest root and targets delegate; floors reset by them first
        Raises Refused (`rollback`): another process was faster.
        """
        with self._locked():
            floors = self.store.load()
            held = after_reset(floors, keys)
            check_versions(held.versions, versions)
            if roots:
                generation = self.generations.begin()
                with Folder.open(generation) as new, new.child(HISTORY) as history:
                    for version, raw in roots.items():
                        history.replace(f"{version}.root.json", raw)
                self.generations.commit(generation, complete=False)
            rising = raised(held, versions, keys, time=0)
            if rising != floors:
                self.store.save(rising)

    def now(self, floors: TufFloors) -> datetime:
        """Return the time to measure expiry against: a clock set back counts as the floor."""
        return max(self.clock(), datetime.fromtimestamp(floors.time, UTC))

    def update(self, fetcher: FetcherInterface, load: Load, last: Callable[[], str]) -> Verified:
        """Return what verified, after floors and files are on disk.

        load: loads further roles once the top ones are verified; returns those it looked for
            and no metadata names
        last: names the file asked for last, for sentences
        After a failure too what verified is kept, so that root steps are not lost; raises
        Refused, Unavailable, NotFound, Damaged.
        """
        with self._locked():
            floors = self.store.load()
            generation = self.generations.begin()
            run = self._run(floors, generation, fetcher, load, last)
            if isinstance(run.cause, BadVersionNumberError) and forget_snapshot(generation):
                # A role whose key was taken away may begin again at 1, which python-tuf lets no
                # snapshot list. Our own floors, checked below, know who lost a key.
                run = self._run(floors, generation, fetcher, load, last)
            updater, absent, problem = run.updater, run.absent, run.problem
            if problem is not None and not _is_stored(generation, updater.trusted()):
                # The disk did not take the newest root: nothing of this walk is kept.
                self.generations.discard(generation)
                raise problem
            whole = problem is None
            files = self._settle(floors, generation, updater, absent, complete=whole)
        if problem is not None:
            raise problem
        return Verified(updater.trusted(), files)

    def _run(
        self,
        floors: TufFloors,
        generation: Path,
        fetcher: FetcherInterface,
        load: Load,
        last: Callable[[], str],
    ) -> _Run:
        """Return how one walk through the metadata went; raises only when the anchor is no root."""
        try:
            updater = ClockedUpdater(
                generation,
                self.anchor,
                fetcher,
                at=self.now(floors),
                url=self.url,
                known_root=floors.versions.get(Root.type, 1) - 1,
            )
        except (*OUTSIDE, OSError) as error:
            self.generations.discard(generation)
            raise explained(error, "trust anchor") from error
        except EmbrasureError:
            self.generations.discard(generation)  # the disk took no file
            raise
        try:
            updater.refresh()
            return _Run(updater, load(updater))
        except EmbrasureError as error:
            return _Run(updater, (), error)
        except (*OUTSIDE, DownloadError, OSError) as error:
            problem = explained(error, last())
            problem.__cause__ = error
            return _Run(updater, (), problem, error)

    def _settle(
        self,
        floors: TufFloors,
        generation: Path,
        updater: ClockedUpdater,
        absent: Iterable[str],
        *,
        complete: bool,
    ) -> Mapping[str, bytes]:
        """Check floors, then make the generation current, then raise the floors."""
        trusted = updater.trusted()
        if not complete:
            # Only what python-tuf stored is final; an old file may no longer verify at all.
            new = {_role(name) for name in self.generations.changed(generation)}
            trusted = {r: s for r, s in trusted.items() if r in new or r == Root.type}
        versions = {plain(role): signed.version for role, signed in trusted.items()}
        keys = updater.keys()
        held = after_reset(floors, keys)
        try:
            check_versions(held.versions, versions)
            # A snapshot that no longer lists what was seen hides it: the oldest version of all.
            check_versions(held.versions, {plain(role): 0 for role in absent})
        except Refused:
            self.generations.discard(generation)
            raise
        rising = raised(held, versions, keys, time=self._signed_at(trusted))
        if complete:
            top = {role: versions[role] for role in layout.TOP_ROLES}
            rising = msgspec.structs.replace(rising, complete=top)
        files = {role: _stored(generation, role, trusted[role].version) for role in trusted}
        self.generations.commit(generation, complete=complete)
        if rising != floors:
            self.store.save(rising)
        return files

    def _signed_at(self, trusted: Mapping[str, Signed]) -> int:
        timestamp = trusted.get(Timestamp.type)
        if timestamp is None:
            return 0
        return time_floor(timestamp.expires, lifetime_s=self.timestamp_s, clock=self.clock())

    def complete(self) -> tuple[Path, TufFloors]:
        """Return the newest complete generation and the floors; raises Refused (`no-trust`)."""
        # Floors first: what is read after them can only be newer.
        floors = self.floors()
        generation = self.generations.linked(COMPLETE)
        if generation is None:
            raise Refused(
                str(self.folder),
                expected="metadata that was verified before",
                got="none",
                hint="refresh from a source first",
                reason="no-trust",
            )
        return generation, floors


def forget_snapshot(generation: Path) -> bool:
    """Return whether the generation had a snapshot; it has none any more."""
    with Folder.open(generation) as held:
        name = stored_name(Snapshot.type, 0)
        found = held.has(name)
        held.unlink(name, missing_ok=True)
    return found


def _role(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return Root.type if folder == HISTORY else unquote(file.removesuffix(".json"))


def stored_name(role: str, version: int) -> str:
    """Return the name that python-tuf gives a file of the role."""
    if role == Root.type:
        return f"{HISTORY}/{version}.root.json"
    return f"{quote(role, '')}.json"


def _is_stored(generation: Path, trusted: Mapping[str, Signed]) -> bool:
    name = stored_name(Root.type, trusted[Root.type].version)
    return read_generation(generation, name, limit=limits.TARGETS_BYTES) is not None


def _stored(generation: Path, role: str, version: int) -> bytes:
    raw = read_generation(generation, stored_name(role, version), limit=limits.TARGETS_BYTES)
    if raw is None:
        raise Refused(role, expected="the file just stored", got="none", reason="bad-metadata")
    return raw
