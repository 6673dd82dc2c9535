"""What every transaction stands on: the node's tools, its floors, and who is told."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from embrasure import limits
from embrasure.bundle.store import BlobStore
from embrasure.clock import Clock
from embrasure.trust.floors import AppFloor, Committed, Floors, FloorStore
from embrasure.trust.policy import Policy
from node.confirm_messages import AwaitsNote
from node.isolation import DEVELOPMENT, Isolation
from node.journal import Journal
from node.paths import Paths
from node.probing import Prober
from node.receipts import Receipts
from node.secrets import Secrets
from node.states import Release, release_name
from node.supervisor import Instance, Unit
from node.users import User
from node.waits import Waits


class Report(Protocol):
    """Who is told while an install runs. It never raises: a lost listener changes nothing."""

    def receipt(self, signed: bytes, body: bytes) -> None:
        """A receipt was made."""
        ...

    def progress(self, state: str, done: int, total: int) -> None:
        """The install stands at `state`, `done` of `total` bytes."""
        ...

    def awaits(self, note: AwaitsNote) -> None:
        """The release stays only if a word comes over a connection that is made from now on."""
        ...


class Apps(Protocol):
    """Who starts, watches and stops the apps of a node: its supervisor."""

    def start(self, unit: Unit) -> Instance:
        """Return the new instance; raises Failed (`start`). Nothing of the app runs before."""
        ...

    def keep(self, app: str) -> None:
        """From now on the app is started again when it ends."""
        ...

    def running(self, app: str) -> Instance | None:
        """Return the instance that lives now."""
        ...

    def members(self, instance: Instance) -> frozenset[int]:
        """Return the living processes of the instance."""
        ...

    def prober(self, user: User | None, *, grpc: bool = False) -> Prober:
        """Return a process that asks the app in this one's place, as `user`."""
        ...

    def companion(self, app: str, unit: str, seconds: float) -> str:
        """Return what is wrong with a unit of systemd of the app, empty when it is well."""
        ...

    def tail(self, app: str, length: int) -> bytes:
        """Return the last `length` bytes that the app printed."""
        ...

    def stop(self, app: str) -> None:
        """No process of the app lives, and no secret of it lies open; raises Failed (`start`)."""
        ...

    def stop_all(self) -> None:
        """No process of any app lives."""
        ...


class Silent:
    """Nobody listens."""

    def receipt(self, signed: bytes, body: bytes) -> None:
        """The receipt stays in the outbox."""

    def progress(self, state: str, done: int, total: int) -> None:
        """Nothing happens."""

    def awaits(self, note: AwaitsNote) -> None:
        """Whoever asks is told."""


class FloorKeeper:
    """The node's floors: every change is on disk before anything relies on it."""

    def __init__(self, store: FloorStore) -> None:
        self._store = store
        self._mutex = threading.Lock()

    def load(self) -> Floors:
        """Return the floors; raises Refused (`no-trust`) when they were lost."""
        with self._mutex:
            return self._store.load()

    def change(self, change: Callable[[Floors], Floors]) -> Floors:
        """Return the floors after `change`, on disk; an unchanged value writes nothing."""
        with self._mutex:
            before = self._store.load()
            after = change(before)
            if after != before:
                self._store.save(after)
            return after

    def change_app(self, app: str, change: Callable[[AppFloor], AppFloor]) -> None:
        """The floor of one app is what `change` made of it, on disk."""
        self.change(lambda floors: floors.with_app(app, change(floors.app(app))))


@dataclass(slots=True)
class Rarely:
    """Says when what costs much is to be done again: at once at first, then once in `seconds`."""

    seconds: float
    last: float = -math.inf

    def is_due(self, now: float) -> bool:
        """Return whether it is to be done. now: Unix seconds; a clock that was set back says yes,
        for nobody knows then how long it was not done.
        """
        return not 0 <= now - self.last < self.seconds


@dataclass(frozen=True, slots=True)
class Ground:
    """The tools of one node. fetch_s: how long one release may be fetched; build_s: how long it
    may be built; confirm_s: how long a release waits for the word that lets it stay;
    policy: the newest one that was verified, None without; halt: set when the node is being
    stopped; blob_sweeps: when blobs were last looked for that nothing names.
    """

    paths: Paths
    supervisor: Apps
    journal: Journal
    blobs: BlobStore
    receipts: Receipts
    floors: FloorKeeper
    secrets: Secrets
    clock: Clock
    waits: Waits
    isolation: Isolation = DEVELOPMENT
    confirm_s: int = limits.CONFIRM_SECONDS
    fetch_s: float = limits.FETCH_SECONDS
    build_s: float = limits.BUILD_SECONDS
    policy: Callable[[], Policy | None] = lambda: None
    halt: threading.Event = field(default_factory=threading.Event)
    blob_sweeps: Rarely = field(default_factory=lambda: Rarely(limits.BLOB_SWEEP_SECONDS))


def release_of(committed: Committed | None) -> Release | None:
    """Return the installed release that the floors call committed."""
    if committed is None:
        return None
    return Release(
        id=release_name(committed.seq, committed.manifest),
        plan=committed.plan,
        seq=committed.seq,
        manifest=committed.manifest,
        wave=committed.wave,
    )
