"""What can be said of a node from its disk alone, while an install runs or no agent does.

Nothing here writes: to look at a node must never change it.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from embrasure import limits
from embrasure.errors import EmbrasureError
from embrasure.trust import layout
from embrasure.trust.documents import Document
from embrasure.trust.floors import AppFloor, Committed, Floors, FloorStore, PairStore, TufFloors
from embrasure.trust.generation import newest_file
from node import drift, hold, isolation
from node.config import NodeConfig
from node.deadline import left_s
from node.ground import release_of
from node.journal import Journal
from node.messages import AppState, PostNote, SeenNote, StateNote, pack, sentence
from node.paths import Paths
from node.posts import make_post
from node.receipts import Outbox, Posted
from node.recovery import linked_in
from node.serving import app_config, served, stand, told
from node.states import HARMLESS, RESTING, Record, State
from node.users import find_user

IDLE = State.IDLE.value
TUF_FLOORS = "tuf-floors"
T = TypeVar("T", bound=Document)


class NodeRecords:
    """Reads one node's disk; safe beside the process that installs."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._identity = stand(paths).identity
        self._network = (0, "")
        self._outbox = Outbox(paths)
        # A repeated post must have the same bytes, and each sealing gives others.
        self._sealed: dict[int, PostNote] = {}

    def state(self) -> StateNote:
        """Return where the node stands."""
        floors = _read(FloorStore(self._paths.floors)) or Floors.first()
        apps = sorted({*served(self._paths), *floors.apps})
        standing, _ = isolation.standing_of(self._paths)
        at = hold.moment(self._paths)
        return StateNote(
            node=self._identity.node,
            env=self._identity.env,
            mode=self._identity.mode,
            epoch=self._identity.epoch,
            oseq=max(floors.oseq.values(), default=0),
            rseq=self._outbox.head()[0],
            timestamp=self._timestamp(),
            maintenance=_told(self._paths, hold.NODE, at),
            isolation=isolation.look(self._paths, standing.config).note(),
            trouble=tuple(sentence(one) for one in standing.trouble[: limits.TROUBLES_TOLD]),
            network=self._network[1],
            apps=tuple(
                self._app(app, floors.app(app), at, self._hindered(app, standing.config))
                for app in apps[: limits.APPS_TOLD]
            ),
        )

    def network(self, until: int, trouble: str) -> None:
        """What fetch says of itself: until when its certificate is good (0: none), what is wrong.

        Shown to people, for no decision.
        """
        self._network = (until, trouble)

    @property
    def certificate_end(self) -> int:
        """When fetch's certificate ends by its own word (Unix seconds), 0 while it said nothing."""
        return self._network[0]

    def _hindered(self, app: str, config: NodeConfig) -> str:
        """Say what keeps the app from being changed or run, "" when nothing does."""
        try:
            owned, trouble = app_config(self._paths, app)
            if isolation.is_production(self._paths, config):
                find_user(owned.user or isolation.APP_USER + app, what=f"app {app}")
        except EmbrasureError as problem:
            return told(problem)
        return f"served as before, not changed: {trouble}" if trouble else ""

    def seen(self, approval: str = "") -> SeenNote:
        """Return what a restored or a new gateway needs to find its numbers; nothing is secret.

        approval: the file of this role, in the place of the snapshot
        A file that fits no message is left out.
        """
        stamp = newest_file(self._paths.tuf, layout.TIMESTAMP, limit=limits.STAMP_BYTES)
        if layout.is_approval_role(approval):
            raw = newest_file(self._paths.tuf, approval, limit=limits.SEEN_BYTES)
            return SeenNote(timestamp=pack(stamp), snapshot="", approval=pack(raw))
        snapshot = newest_file(self._paths.tuf, layout.SNAPSHOT, limit=limits.SEEN_BYTES)
        return SeenNote(timestamp=pack(stamp), snapshot=pack(snapshot))

    def posts(self, limit: int) -> list[PostNote]:
        """Return the oldest receipts that nobody has taken, as a letterbox gets them.

        One made before any policy named a collect key cannot be sealed; it stays where it is.
        """
        return [self._post(one) for one in self._outbox.pending(limit) if one.collect_key]

    def posted(self, *rseqs: int) -> None:
        """The receipts are not handed out again."""
        self._outbox.acknowledge(*rseqs)
        for rseq in rseqs:
            self._sealed.pop(rseq, None)

    def _post(self, posted: Posted) -> PostNote:
        if posted.rseq not in self._sealed:
            self._sealed[posted.rseq] = make_post(posted, self._identity)
        return self._sealed[posted.rseq]

    def _timestamp(self) -> int:
        found = _read(PairStore(self._paths.tuf / TUF_FLOORS, TufFloors))
        return 0 if found is None else found.versions.get(layout.TIMESTAMP, 0)

    def _app(self, app: str, floor: AppFloor, at: datetime, hindered: str) -> AppState:
        entry = Journal(self._paths).read(app)
        record, committed = entry.record, floor.committed
        return AppState(
            app=app,
            state=record.state.value if record is not None else IDLE,
            seq=committed.seq if committed is not None else 0,
            gseq=floor.gseq,
            manifest=committed.manifest if committed is not None else "",
            detail=sentence(
                hindered
                or self._other(app, record, committed)
                or _awaits(record)
                or drift.told(self._paths, app, committed)
                or (record.detail if record is not None else _damage(entry.damaged))
            ),
            hold=_told(self._paths, app, at),
            until=record.retry_at if record is not None and record.state is State.WAITING else 0,
        )

    def _other(self, app: str, record: Record | None, committed: Committed | None) -> str:
        """Say so when another release is linked than the committed one, and no install is open."""
        if record is not None and record.state is State.DEGRADED:
            return ""  # why it is so comes first
        if committed is None or (record is not None and record.state not in RESTING | HARMLESS):
            return ""
        release, name = release_of(committed), linked_in(self._paths, app)
        wanted = release.id if release is not None else name
        if name == wanted:
            return ""
        return f"{name or 'nothing'} runs instead of {wanted}: embrasure node verify"


def _told(paths: Paths, app: str, at: datetime) -> str:
    return sentence(hold.held(paths, app, at))[:160]


def _awaits(record: Record | None) -> str:
    """Say whose word a release waits for, and how long still."""
    if record is None or record.state is not State.PROVISIONAL or record.confirm_by is None:
        return ""
    return f"stays if the {record.confirm} confirms it within {left_s(record.confirm_by):.0f} s"


def _damage(is_damaged: bool) -> str:
    return "its state record cannot be read" if is_damaged else ""


def _read(store: PairStore[T]) -> T | None:
    """Return what is stored; None before the first save, or when it is lost (then it is shown)."""
    try:
        return store.load() if store.exists() else None
    except EmbrasureError:
        return None
