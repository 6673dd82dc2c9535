"""Orders to push nodes: one stream each, begun when due, its words passed on, never doubled.

The order's number is taken in the database before the dial. A node that is asked again answers
with the receipts it has stored, so asking twice installs once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from logging import getLogger

import grpc
from sqlalchemy import select

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound, Refused, shown
from embrasure.net.credentials import channel
from embrasure.net.trustbundle import Trust
from embrasure.trust.directory import Entry
from gateway import reports, rows, tables
from gateway.dialling import due, pause_s
from gateway.guarding import while_believed
from gateway.ordering import sign_order
from gateway.parts import EngineParts
from gateway.push import Awaited, Ended, awaited_by, push, seen_by
from gateway.renumber import go_on_above
from gateway.rows import Stored
from gateway.steering import Steering

LOG = getLogger(__name__)
ANEW_S = 0.03  # a node that wants to be dialled anew is back that soon
_LOOKS = frozenset({"activating", "checking"})  # between two releases, when it was last heard of
# A machine that went down says no word: without these a stream to it would stay open for ever.
_ALIVE = (
    ("grpc.keepalive_time_ms", limits.NODE_KEEPALIVE_MILLISECONDS),
    ("grpc.keepalive_timeout_ms", limits.NODE_KEEPALIVE_MILLISECONDS),
    ("grpc.http2.max_pings_without_data", 0),
)
RAISES = 3  # a node tells its floor once; more often is a game
Progress = dict[tuple[str, str], tuple[str, int, int]]


@dataclass(slots=True)
class _Line:
    """What is remembered of one node between dials; lost with the process, and no matter."""

    failures: int = 0
    after: float = 0.0
    floor: int = 0
    raised: int = 0
    ahead: bool = False  # the node had seen more than was published, and now less
    looks: bool = False  # it may have a release that waits to be confirmed


@dataclass(slots=True)
class Dialler:
    """The open streams of one gateway. progress: (roll-out, node) -> word, done, total."""

    parts: EngineParts
    steering: Steering
    progress: Progress = field(default_factory=dict)
    _streams: dict[tuple[str, str], asyncio.Task[None]] = field(default_factory=dict)
    _lines: dict[tuple[str, str], _Line] = field(default_factory=dict)
    _handshakes: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(limits.HANDSHAKES_AT_ONCE)
    )

    def live(self, name: str) -> set[str]:
        """Return the nodes of one roll-out whose stream is open."""
        return {node for rollout, node in self._streams if rollout == name}

    def tick(self, stored: Stored) -> None:
        """Dial whoever is due; called in the event loop."""
        name = stored.rollout.id
        if self.steering.keeper.published(name) is None:
            return
        now = asyncio.get_running_loop().time()
        after = {
            node: line.after for (rollout, node), line in self._lines.items() if rollout == name
        }
        live = self.live(name)
        for node in due(stored, live=live, after=after, now=now):
            task = asyncio.ensure_future(self._dial(name, node))
            self._streams[(name, node)] = task
            task.add_done_callback(lambda _, key=(name, node): self._over(key))  # type: ignore[misc]  # bound early

    def forget(self, name: str, nodes: tuple[str, ...]) -> None:
        """Dial these nodes at once: an operator asked for it."""
        for node in nodes:
            self._lines.pop((name, node), None)

    async def close(self) -> None:
        """End all streams; nodes that install go on by themselves."""
        tasks = list(self._streams.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _over(self, key: tuple[str, str]) -> None:
        task = self._streams.pop(key, None)
        self.progress.pop(key, None)
        if task is not None and not task.cancelled() and task.exception() is not None:
            LOG.error("dial of %s failed", key[1], exc_info=task.exception())
            self._lines.setdefault(key, _Line()).after = self._later(self.parts.pace.redial_max_s)
        self.steering.wake()

    def _later(self, seconds: float) -> float:
        return asyncio.get_running_loop().time() + seconds

    # --- one dial -----------------------------------------------------------------------------

    async def _dial(self, name: str, node: str) -> None:
        line = self._lines.setdefault((name, node), _Line())
        try:
            ended = await self._ask(name, node, line)
            if ended.kind == "awaits":
                ended = await self._dial_anew(name, node, line)
        except EmbrasureError as problem:
            # Nothing left this machine: no journal, no key, no address, no trust.
            line.failures += 1
            line.after = self._later(self._pause(line))
            await self._lost(name, node, f"gateway: {problem} [{problem.word}]")
            return
        await self._settle(name, node, line, ended)

    async def _dial_anew(self, name: str, node: str, line: _Line) -> Ended:
        """Return how it ended once the node was reached over a connection that it takes for new.

        It closes its listener for a moment, and a release that cuts it off keeps it closed.
        """
        line.looks, until = True, self._later(self.parts.pace.dial_s)
        while True:
            ended = await self._ask(name, node, line)
            if ended.kind not in ("awaits", "unreachable"):
                return ended
            if self._later(0) >= until:
                return Ended("broken", reason=f"not reached to confirm: {ended.reason}"[:200])
            await asyncio.sleep(ANEW_S)

    async def _ask(self, name: str, node: str, line: _Line) -> Ended:
        stored, entry, address = await asyncio.to_thread(self._read, name, node)
        trust = self.steering.library.trust(stored.rollout.env, stored.rollout.app)
        key, chain_pem = self.parts.identity.client()
        ear = _Ear(self, name, entry)
        wave = stored.plan.waves[stored.member(node).wave]
        async with channel(
            address,
            role="node",
            name=node,
            domain=trust.domain,
            issuer_pems=trust.pem(["node"]),
            key=key,
            chain_pem=chain_pem,
            options=_ALIVE,
        ) as line_out:
            found: Awaited | Ended | None = None
            if line.looks or stored.member(node).state in _LOOKS:
                found = await self._awaited(line_out, stored)
            if isinstance(found, Ended):
                return found
            order = await asyncio.to_thread(
                sign_order, self.parts, self.steering.keeper, stored, entry,
                floor=line.floor, awaited=found,
            )  # fmt: skip
            library, plan = self.steering.library, stored.plan
            # Read behind the order: what is published is no older than its gate.
            along = await asyncio.to_thread(
                library.ahead, plan.env, plan.app, plan.manifest.sha256
            ) if found is None else []  # fmt: skip
            pushed = push(
                line_out,
                order.envelope,
                feed=library.feed,
                listener=ear,
                ahead=along,
                dial_s=self.parts.pace.dial_s,
                idle_s=wave.deadline_s + wave.soak_s,
                handshakes=self._handshakes,
                confirms=found is not None,
            )
            try:
                ended = await while_believed(
                    pushed,
                    partial(self._check_believed, stored, entry, trust),
                    every_s=self.parts.pace.recheck_s,
                )
            except EmbrasureError as problem:
                ended = Ended("broken", reason=shown(f"stopped: {problem}"))
            if ended.kind == "refusal" and ended.reason == "rollback":
                line.ahead = await self._learn(line_out, node)
        await asyncio.to_thread(
            self.parts.journal.outcome, order.intent, ended.kind,
            reason=f"{ended.word} {ended.reason}".strip(),
        )  # fmt: skip
        return ended

    async def _awaited(self, out: grpc.aio.Channel, stored: Stored) -> Awaited | Ended | None:
        """Return what the node wants confirmed of this plan, or how the dial ended already."""
        try:
            async with self._handshakes:
                found = await awaited_by(out, seconds=self.parts.pace.dial_s)
        except EmbrasureError as problem:
            return Ended("unreachable", reason=shown(f"dial: {problem.got}", 200))
        if found is None or found.plan != stored.rollout.plan:
            return None
        return found if found.nonce else Ended("awaits", word=found.tx)

    def _read(self, name: str, node: str) -> tuple[Stored, Entry, str]:
        stored = rows.load(self.parts.database, name, node=node)
        entry = self._entry(stored, node)
        row = tables.addresses.c
        mine = (row.kind == "node") & (row.name == node) & (row.env == stored.rollout.env)
        query = select(row.address).where(mine)
        found = self.parts.database.first(query)
        if found is None:
            raise NotFound(
                f"address of {node}", expected="one to dial", got="none",
                hint=f"embrasure fleet address {node} HOST:PORT", reason="no-address",
            )  # fmt: skip
        return stored, entry, str(found.address)

    def _entry(self, stored: Stored, node: str) -> Entry:
        """Return the directory's entry of a node that may be dialled; raises Refused."""
        ground = self.steering.library.ground(stored.rollout.env, stored.rollout.app)
        entry = ground.entries.get(node)
        if entry is None or entry.state != "active" or node in ground.denied.nodes:
            raise Refused(f"node {node}", expected="an active, undenied entry", got="none",
                          reason="not-enrolled")  # fmt: skip
        return entry

    def _check_believed(self, stored: Stored, entry: Entry, trust: Trust) -> None:
        """Return only while the node is the one that was dialled, and its issuers are believed."""
        now = self.steering.library.trust(stored.rollout.env, stored.rollout.app)
        found = self._entry(stored, entry.id)
        if (found.epoch, found.receipt) != (entry.epoch, entry.receipt):
            raise Refused(f"node {entry.id}", expected=f"epoch {entry.epoch}", got=found.epoch,
                          reason="identity")  # fmt: skip
        if not now.keeps(trust, "node"):
            raise Refused(f"node {entry.id}", expected="the issuers it was dialled with",
                          got="others", reason="denied")  # fmt: skip

    async def _settle(self, name: str, node: str, line: _Line, ended: Ended) -> None:
        """How the dial ended changes the member, and when it is dialled again."""
        pace = self.parts.pace
        if ended.kind in ("unreachable", "broken"):
            line.failures = line.failures + 1 if ended.kind == "unreachable" else 1
            line.after = self._later(self._pause(line))
            await self._lost(name, node, ended.reason)
            return
        line.failures = 0
        line.after = self._later(pace.wait_s)
        line.looks = ended.reason == "busy"
        if ended.kind == "refusal":
            if ended.reason == "replay" and self._higher(line, ended.floor):
                # Numbers above ours were used there: a restored backup, or a thief's orders.
                line.after = 0.0
                return
            if ended.reason == "rollback" and line.ahead and line.raised < RAISES:
                # Numbers of ours, which a restored backup had lost: what is published is above now.
                line.ahead, line.raised, line.after = False, line.raised + 1, 0.0
                return
            if ended.word == "hold" or ended.reason == "later":
                line.after = self._later(pace.hold_s)
            await self.steering.report(
                name, node,
                lambda m, now: reports.on_refusal(m, kind=ended.word, reason=ended.reason, now=now),
            )  # fmt: skip

    async def _learn(self, out: grpc.aio.Channel, node: str) -> bool:
        """Return whether the node showed numbers of this gateway that are above its own."""
        try:
            timestamp, snapshot = await seen_by(out)
            return await asyncio.to_thread(
                go_on_above, self.parts, timestamp, snapshot, who=f"node/{node}"
            )
        except EmbrasureError as problem:
            LOG.warning("%s shows numbers that do not count: %s", node, problem)
            return False

    @staticmethod
    def _higher(line: _Line, floor: int) -> bool:
        """Take the node's floor; False when it told no higher one, or too often."""
        if not line.floor < floor < limits.MAX_INTEGER or line.raised >= RAISES:
            return False
        line.floor, line.raised = floor, line.raised + 1
        return True

    def _pause(self, line: _Line) -> float:
        pace = self.parts.pace
        return pause_s(line.failures, first=pace.redial_s, most=pace.redial_max_s)

    async def _lost(self, name: str, node: str, reason: str) -> None:
        await self.steering.report(name, node, lambda m, now: reports.on_lost(m, reason, now=now))


@dataclass(slots=True)
class _Ear:
    """Passes on what one node says."""

    dialler: Dialler
    name: str
    entry: Entry

    async def reached(self) -> None:
        await self.dialler.steering.report(
            self.name, self.entry.id, lambda m, _: reports.on_reached(m)
        )

    async def progress(self, state: str, *, done: int, total: int) -> None:
        key = (self.name, self.entry.id)
        known = self.dialler.progress.get(key)
        self.dialler.progress[key] = (state, done, total)
        if known is None or known[0] != state:
            await self.dialler.steering.report(
                self.name, self.entry.id,
                lambda m, now: reports.on_progress(m, state, now=now),
            )  # fmt: skip

    async def receipt(self, signed: bytes, body: bytes) -> None:
        try:
            await self.dialler.steering.receipt(self.entry, signed, body)
        except Refused as problem:
            await asyncio.to_thread(
                self.dialler.parts.journal.note, "receipts", self.entry.id, result="refused",
                reason=str(problem),
            )  # fmt: skip
            raise
