"""Mirrors and letterboxes: each is brought up to date when something was published, and emptied.

One that does not answer is tried again and shown as such; it delays nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from logging import getLogger

import grpc
from nacl.public import PrivateKey
from sqlalchemy import select

from embrasure.errors import EmbrasureError, Refused, Unavailable
from embrasure.net.credentials import channel
from embrasure.net.identity import Role
from embrasure.net.trustbundle import Trust
from embrasure.trust import layout
from embrasure.trust.directory import Entry
from embrasure.wire import mirror_pb2
from gateway import tables
from gateway.collect import acknowledge, collect, open_post
from gateway.dialling import pause_s
from gateway.guarding import while_believed
from gateway.mirrors import approval_by, publish, seen_by
from gateway.parts import EngineParts
from gateway.receipts import Told
from gateway.renumber import go_on_above
from gateway.steering import Steering
from gateway.takeover import above_former, learn, unpublished

LOG = getLogger(__name__)
MOST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """A mirror or letterbox to dial."""

    kind: str
    name: str
    env: str
    address: str

    @property
    def role(self) -> Role:
        """The TLS role that must answer there."""
        return "letterbox" if self.kind == "letterbox" else "mirror"


@dataclass(slots=True)
class Shown:
    """What is known of one place: the version it shows, and why it lags behind."""

    version: int = 0
    problem: str = ""
    failures: int = 0
    asked: set[str] = field(default_factory=set)  # approval roles whose numbers it was asked for


@dataclass(slots=True)
class Carriers:
    """One task for each place, started and stopped as addresses come and go."""

    parts: EngineParts
    steering: Steering
    busy: asyncio.Event = field(default_factory=asyncio.Event)
    shown: dict[Place, Shown] = field(default_factory=dict)
    _tasks: dict[Place, asyncio.Task[None]] = field(default_factory=dict)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def tick(self) -> None:
        """Every known place has its task; tasks wait for news."""
        places = await asyncio.to_thread(self._places)
        for gone in set(self._tasks) - set(places):
            self._tasks.pop(gone).cancel()
            self.shown.pop(gone, None)
        for place in [place for place, task in self._tasks.items() if task.done()]:
            # A fault of ours: it is told, and the place is served again.
            problem = self._tasks.pop(place).exception()
            LOG.error("%s %s stopped", place.kind, place.name, exc_info=problem)
        for place in places:
            if place not in self._tasks:
                self.shown[place] = Shown()
                self._tasks[place] = asyncio.ensure_future(self._serve(place))
        async with self._news:
            self._news.notify_all()

    async def close(self) -> None:
        """Stop all tasks."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def status(self) -> list[Mapping[str, object]]:
        """Return name, kind, version and problem of each place."""
        return [
            {
                "kind": p.kind,
                "name": p.name,
                "env": p.env,
                "version": s.version,
                "problem": s.problem,
            }
            for p, s in sorted(self.shown.items(), key=lambda item: (item[0].kind, item[0].name))
        ]

    def _places(self) -> list[Place]:
        row = tables.addresses.c
        query = select(tables.addresses).where(row.kind.in_(("mirror", "letterbox")))
        return [Place(r.kind, r.name, r.env, r.address) for r in self.parts.database.all(query)]

    # --- one place ----------------------------------------------------------------------------

    async def _serve(self, place: Place) -> None:
        shown, visited = self.shown[place], float("-inf")
        loop = asyncio.get_running_loop()
        while True:
            try:
                trust, every = self._trust(place), self.parts.pace.recheck_s
                async with self._channel(place, trust) as out:
                    check = partial(self._check_believed, place, trust)
                    await while_believed(self._learn(place, shown, out), check, every_s=every)
                    await while_believed(self._bring(place, shown, out), check, every_s=every)
                    if place.kind == "letterbox" and self._due(visited) <= 0:
                        await while_believed(self._empty(place, out), check, every_s=every)
                        visited = loop.time()
                shown.problem, shown.failures = "", 0
            except EmbrasureError as problem:
                shown.problem, shown.failures = f"{problem} [{problem.word}]", shown.failures + 1
                LOG.warning("%s %s: %s", place.kind, place.name, shown.problem)
                pause = pause_s(
                    shown.failures, first=self.parts.pace.republish_s, most=MOST_PAUSE_S
                )
                await asyncio.sleep(pause)
                continue
            await self._idle(place, shown, visited)

    async def _idle(self, place: Place, shown: Shown, visited: float) -> None:
        """Wait for a new publication; a letterbox also for its next visit, which a roll-out that
        starts meanwhile brings forward.
        """
        box = place.kind == "letterbox"
        limit = max(0.05, self._due(visited)) if box else None

        def news() -> bool:
            due = box and self._due(visited) <= 0
            return due or self.steering.library.version() != shown.version

        async with self._news:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait_for(news), limit)

    def _due(self, visited: float) -> float:
        """Seconds until a letterbox visited then is visited again, by what is true now."""
        pace = self.parts.pace
        every = pace.collect_s if self.busy.is_set() else pace.collect_idle_s
        return visited + every - asyncio.get_running_loop().time()

    def _trust(self, place: Place) -> Trust:
        return self.steering.library.trust(self._env(place), "")

    def _check_believed(self, place: Place, earlier: Trust) -> None:
        """Return only while every issuer that the place was dialled with is still believed."""
        if not self._trust(place).keeps(earlier, place.role):
            raise Refused(f"{place.kind} {place.name}", expected="the issuers it was dialled with",
                          got="others", reason="denied")  # fmt: skip

    def _channel(self, place: Place, trust: Trust) -> grpc.aio.Channel:
        key, chain_pem = self.parts.identity.client()
        return channel(
            place.address,
            role=place.role,
            name=place.name,
            domain=trust.domain,
            issuer_pems=trust.pem([place.role]),
            key=key,
            chain_pem=chain_pem,
        )

    def _env(self, place: Place) -> str:
        """Its own environment, else any: one repository has one trust domain."""
        view = self.parts.repository.view()
        envs = sorted(name[6:] for name in view.roles if name.startswith("fleet-"))
        if place.env in envs or not envs:
            return place.env
        return envs[0]

    async def _learn(self, place: Place, shown: Shown, out: grpc.aio.Channel) -> None:
        """A gateway that has not published an app yet asks a mirror what was published before."""
        parts, who = self.parts, f"{place.kind}/{place.name}"
        roles = await asyncio.to_thread(unpublished, parts.repository)
        if place.kind != "mirror" or not set(roles) - shown.asked:
            return
        if not shown.asked:
            stamp, snapshot = await seen_by(out)
            await asyncio.to_thread(above_former, parts, stamp, snapshot, who=who)
        await learn(parts, partial(approval_by, out), roles, shown.asked, who)

    async def _bring(self, place: Place, shown: Shown, out: grpc.aio.Channel) -> None:
        """The place shows what is published, having verified it itself."""
        contents = await asyncio.to_thread(self.steering.library.contents)
        if contents.timestamp == shown.version:
            return
        parts = self.parts
        n = await asyncio.to_thread(
            parts.journal.intent, "publish", f"{place.name}:{contents.timestamp}"
        )
        try:
            box = place.env if place.kind == "letterbox" else None
            source = parts.repository.source()
            shown.version = await publish(out, source, contents, letterbox_of=box)
        except EmbrasureError as problem:
            await asyncio.to_thread(parts.journal.outcome, n, "refused", reason=str(problem))
            if problem.reason == "rollback":
                # A restored backup: the next try brings what stands above.
                stamp, snapshot = await seen_by(out)
                name = f"{place.kind}/{place.name}"
                await asyncio.to_thread(go_on_above, parts, stamp, snapshot, who=name)
            raise
        await asyncio.to_thread(parts.journal.outcome, n, "ok")
        if shown.version != contents.timestamp:
            raise Unavailable(
                place.name, expected=f"to show version {contents.timestamp}", got=shown.version
            )

    # --- letterboxes --------------------------------------------------------------------------

    async def _empty(self, place: Place, out: grpc.aio.Channel) -> None:
        """Take what is there; each post is kept before its slot is freed."""
        key = self.parts.collect_key
        if key is None:
            return
        posts = await collect(out)
        if not posts:
            return
        entries = await asyncio.to_thread(self._entries, place)
        wrong: list[str] = []
        for post in posts:
            told = _opened(post, entries, key, wrong)
            if told is not None:
                await self.steering.take(told)
        if wrong:
            # One note a visit: whoever fills the box must not fill the journal.
            await asyncio.to_thread(
                self.parts.journal.note, "letterbox", place.name, result="refused",
                reason=wrong[0], posts=len(wrong),
            )  # fmt: skip
        await acknowledge(out, posts)

    def _entries(self, place: Place) -> dict[str, Entry]:
        """The directories of every environment, by receipt key id."""
        view = self.parts.repository.view()
        envs = [n[6:] for n in view.roles if n.startswith("fleet-")]
        found: dict[str, Entry] = {}
        for env in envs:
            layout.check_env(env)
            ground = self.steering.library.ground(env, "")
            found |= {entry.receipt_id: entry for entry in ground.entries.values()}
        return found


def _opened(
    post: mirror_pb2.Post, entries: Mapping[str, Entry], key: PrivateKey, wrong: list[str]
) -> Told | None:
    try:
        return open_post(post, entries, key)
    except Refused as problem:
        wrong.append(str(problem))
        return None
