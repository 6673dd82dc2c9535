"""Floors: what this machine has seen and never goes back behind, kept in two copies.

Outside the metadata folder: a power cut that empties metadata files must not reset them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Generic, Literal, Self, TypeVar

import msgspec
from msgspec import Meta

from embrasure import limits
from embrasure.aside import set_aside
from embrasure.errors import Damaged, EmbrasureError, NotFound, Refused
from embrasure.fs import Folder, read_file
from embrasure.trust import canonical as form
from embrasure.trust.documents import (
    AppName,
    Count,
    Digest,
    Document,
    KeyId,
    NodeId,
    Positive,
    convert,
    read,
)

RoleName = Annotated[str, Meta(pattern=r"^[\x20-\x7e]{1,128}$")]
MaybeDigest = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]
_NAMES = ("a", "b")


class Committed(Document, frozen=True, kw_only=True):
    """A release that passed its probes here. `ran`: which content of the plan runs."""

    plan: Digest
    seq: Positive
    ran: Literal["main", "fallback"]
    manifest: Digest
    wave: Count


class AppFloor(Document, frozen=True, kw_only=True):
    """What was seen of one app. Digests are "" before anything was seen."""

    seen_seq: Count = 0
    seen_plan: MaybeDigest = ""
    committed: Committed | None = None
    previous: Committed | None = None
    gate_seq: Count = 0
    gseq: Count = 0
    gate_digest: MaybeDigest = ""
    tries: dict[Digest, Count] = msgspec.field(default_factory=dict)


class Union(Document, frozen=True, kw_only=True):
    """Denials of every revocations version since the last reset: entry -> newest version with it.

    through: the highest version merged; holders: the keys that could sign revocations then.
    """

    plans: dict[Digest, Positive] = msgspec.field(default_factory=dict)
    manifests: dict[Digest, Positive] = msgspec.field(default_factory=dict)
    keys: dict[KeyId, Positive] = msgspec.field(default_factory=dict)
    nodes: dict[NodeId, Positive] = msgspec.field(default_factory=dict)
    gateway_certs: dict[Digest, Positive] = msgspec.field(default_factory=dict)
    through: Count = 0
    holders: tuple[KeyId, ...] = ()

    def size(self) -> int:
        """Return how many entries are held, against `limits.DENIED_UNION`."""
        lists = (self.plans, self.manifests, self.keys, self.nodes, self.gateway_certs)
        return sum(map(len, lists))


class Floors(Document, frozen=True, kw_only=True):
    """A node's floors. `tuf`: role -> version; `time`: Unix s; `oseq`: gate key id -> order."""

    tuf: dict[RoleName, Count]
    time: Count
    apps: dict[AppName, AppFloor]
    oseq: dict[KeyId, Count]
    union: Union
    epoch: Positive

    @classmethod
    def first(cls, *, epoch: int = 1, time: int = 0) -> Self:
        """Return the floors of a machine that has seen nothing."""
        return cls(tuf={}, time=time, apps={}, oseq={}, union=Union(), epoch=epoch)

    def app(self, name: str) -> AppFloor:
        """Return the floor of an app, which is empty before anything was seen of it."""
        return self.apps.get(name, AppFloor())

    def with_app(self, name: str, floor: AppFloor) -> Self:
        """Return these floors with another floor for one app."""
        return msgspec.structs.replace(self, apps={**self.apps, name: floor})


class TufFloors(Document, frozen=True, kw_only=True):
    """The metadata floors of one `TrustClient`.

    versions: role -> version; keys: role -> key ids when that floor was set; time: Unix seconds;
    complete: top-level role -> version, at the last refresh that succeeded as a whole.
    """

    versions: dict[RoleName, Count]
    keys: dict[RoleName, tuple[RoleName, ...]]
    complete: dict[RoleName, Count]
    time: Count

    @classmethod
    def first(cls) -> Self:
        """Return the floors of a client that has verified nothing yet."""
        return cls(versions={}, keys={}, complete={}, time=0)


class _Copy(Document, frozen=True, kw_only=True):
    """One of the two files. sha256: of the canonical form of `counter` and `floors`."""

    counter: Positive
    floors: dict[str, object]
    sha256: Digest


T = TypeVar("T", bound=Document)


class PairStore(Generic[T]):
    """One document in two files, `a` and `b`: a save replaces both, the older first, so that the
    loss of either takes back nothing that was relied on; a load repairs a bad one.

    One writer at a time (the callers' lock); readers need none, and repair nothing.
    """

    def __init__(self, folder: Path, shape: type[T]) -> None:
        self.folder = folder
        self.shape = shape
        self._files = {name: folder / name for name in _NAMES}
        self._read: dict[str, tuple[bytes, tuple[int, T]]] = {}  # as the files were last found

    def exists(self) -> bool:
        """Return whether at least one of the two files is there, in whatever state."""
        return any((self.folder / name).exists() for name in _NAMES)

    def create(self, floors: T) -> None:
        """Both files hold `floors`; raises Refused (`exists`) when there are any already."""
        if self.exists():
            raise Refused(str(self.folder), expected="no floors yet", got="floors", reason="exists")
        with Folder.open(self.folder, create=True) as held:
            for counter, name in enumerate(_NAMES, start=1):
                held.replace(name, _encode(floors, counter))

    def load(self, *, repair: bool = True) -> T:
        """Return the newest floors that are whole.

        repair: a file that is not whole is written again; only for the one writer
        Raises Refused (`no-trust`) when neither is: floors never start again from zero.
        """
        found, bad = self._both()
        if not found:
            raise Refused(
                str(self.folder),
                expected="floors that this machine wrote",
                got="; ".join(f"{name}: {problem.got}" for name, problem in bad.items()),
                untouched="what runs keeps running; nothing new is installed",
                hint="enrol this node again with the next epoch",
                reason="no-trust",
            )
        counter, floors = max(found.values(), key=lambda item: item[0])
        for name in bad if repair else ():
            # The same counter would leave two equal copies; one below keeps the order of ages.
            with Folder.open(self.folder) as held:
                set_aside(held, name)
                held.replace(name, _encode(floors, max(1, counter - 1)))
        return floors

    def save(self, floors: T) -> None:
        """`floors` are on disk twice, now or after a crash; else the former ones are."""
        found, bad = self._both()
        if not found:
            self.load()
        older = next(iter(bad), min(found, key=lambda name: found[name][0]))
        counter = max(number for number, _ in found.values())
        other = next(name for name in _NAMES if name != older)
        made = {older: _encode(floors, counter + 1), other: _encode(floors, counter + 2)}
        with Folder.open(self.folder) as held:
            set_aside(held, older)
            _replace_both(held, made)
        # What was just written is what is read next: parsed as every other floor is, without JSON.
        again = convert(msgspec.to_builtins(floors), self.shape, "floors")
        self._read = {
            older: (made[older], (counter + 1, again)), other: (made[other], (counter + 2, again))
        }  # fmt: skip

    def _both(self) -> tuple[dict[str, tuple[int, T]], dict[str, EmbrasureError]]:
        found: dict[str, tuple[int, T]] = {}
        bad: dict[str, EmbrasureError] = {}
        for name in _NAMES:
            try:
                found[name] = self._one(name)
            except (Refused, NotFound) as problem:
                bad[name] = problem
        return found, bad

    def _one(self, name: str) -> tuple[int, T]:
        raw = read_file(self._files[name], limit=limits.FLOORS_BYTES, private=True)
        # Read every time, parsed once: a look at a repository asks for them ten times over.
        last = self._read.get(name)
        if last is not None and last[0] == raw:
            return last[1]
        self._read.pop(name, None)
        copy = read(raw, _Copy, limit=limits.FLOORS_BYTES, document="floors")
        if _hash(copy.counter, copy.floors) != copy.sha256:
            raise Refused(
                "floors", expected="the hash of what they say", got="another", reason="bad-hash"
            )
        found = copy.counter, convert(copy.floors, self.shape, "floors")
        self._read[name] = raw, found
        return found


class FloorStore(PairStore[Floors]):
    """A node's floors."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Floors)


def _replace_both(held: Folder, made: Mapping[str, bytes]) -> None:
    """Each file holds what was made for it, on disk; after a crash each is whole, new or old.

    Both are on disk under other names before the first one takes the place of an old one; on a disk
    that has no room for two, one is done after the other: a way back needs no more than one.
    """
    fresh = {name: f".{secrets.token_hex(16)}.new" for name in made}
    try:
        for name, raw in made.items():
            held.write(fresh[name], [raw], mode=0o600, synced=True)
        for name in made:
            held.rename(fresh[name], held, name, replace=True)
    except BaseException as problem:
        for temporary in fresh.values():
            held.unlink(temporary, missing_ok=True)
        if not isinstance(problem, EmbrasureError) or problem.reason != "no-space":
            raise
        for name, raw in made.items():
            held.replace(name, raw)
        return
    held.fsync()


def _hash(counter: int, floors: object) -> str:
    return form.sha256_hex(form.written({"counter": counter, "floors": floors}))


def _encode(floors: Document, counter: int) -> bytes:
    raw = form.written({"counter": counter, "floors": floors, "sha256": _hash(counter, floors)})
    if len(raw) > limits.FLOORS_BYTES:
        # Written but unreadable floors would be no floors at all.
        raise Damaged(
            "floors", expected=f"at most {limits.FLOORS_BYTES} bytes", got=len(raw), reason="limit"
        )
    return raw
