"""The course of each roll-out, carried out: one step at a time, rows first, then the gate.

Everything here may be killed at any line: what the rows say is made true again at the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from logging import getLogger

from embrasure import limits
from embrasure.clock import write_time
from embrasure.errors import EmbrasureError, NotFound
from embrasure.trust.directory import Entry
from gateway import beginning, reports, rows
from gateway.gatekeeper import Gatekeeper
from gateway.library import Library
from gateway.parts import EngineParts
from gateway.receipts import Told, check_receipt, keep, last_number
from gateway.rollout import Breach, Facts, Member, Step, halt, step
from gateway.rows import Stored
from gateway.states import ENDED

LOG = getLogger(__name__)
Change = Callable[[Member, int], Member]
Make = Callable[[Stored, Facts], Step | None]
STEPS = 4 * limits.WAVES  # most that can follow one another at once


class Steering:
    """All roll-outs of one gateway; blocking work runs in threads, under the roll-out's lock."""

    def __init__(self, parts: EngineParts, wake: Callable[[], None]) -> None:
        self.parts, self.wake = parts, wake
        self.library = Library(parts.repository)
        self.keeper = Gatekeeper(parts, self.library)
        self._locks: dict[str, asyncio.Lock] = {}
        self._adopted: dict[str, int] = {}  # roll-out -> view whose directory was looked at

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def start(self, env: str, app: str, plan_digest: str, *, actor: str) -> str:
        """Return the id of the roll-out of this approved plan, published and running."""
        name = plan_digest[:16]
        # One start at a time for an app: two plans must not both find it free.
        async with self._lock(f"{env}-{app}"), self._lock(name):
            await asyncio.to_thread(
                beginning.start, self.parts, self.library, self.keeper, env=env, app=app,
                plan_digest=plan_digest, actor=actor,
            )  # fmt: skip
        self.wake()
        return name

    async def act(self, name: str, make: Make, *, verb: str, actor: str, stop: bool) -> bool:
        """Carry out the step that `make` returns; False when there was nothing to do."""
        async with self._lock(name):
            done = await asyncio.to_thread(self._act, name, make, verb, actor, stop)
        self.wake()
        return done

    async def advance(self, name: str) -> None:
        """Take every step that follows by itself, after making true what a kill left undone."""
        async with self._lock(name):
            await asyncio.to_thread(self._advance, name)

    async def repair(self, name: str) -> bool:
        """Return whether the plan of an ended roll-out is published; then its last gate is too."""
        async with self._lock(name):
            return await asyncio.to_thread(self._repair, name)

    async def report(self, name: str, node: str, change: Change) -> Member:
        """Return the member after `change`, stored."""
        async with self._lock(name):
            found = await asyncio.to_thread(self._report, name, node, change)
        self.wake()
        return found

    async def receipt(self, entry: Entry, signed: bytes, body: bytes) -> Told:
        """Return the verified receipt once it is stored and counted; raises Refused."""
        told = check_receipt(signed, body, entry)
        await self.take(told)
        return told

    async def take(self, told: Told) -> None:
        """A verified receipt is stored and has moved its node; its chain's faults are told."""
        name = told.receipt.plan.hex()[:16]
        async with self._lock(name):
            problems = await asyncio.to_thread(self._receipt, name, told)
        for problem in problems:
            # A copied node or a restored disk: a person must look, and may retire or deny it.
            LOG.error("receipts of %s: %s", told.receipt.node, problem)
            await asyncio.to_thread(
                self.parts.journal.note, "receipts", told.receipt.node, result="alarm",
                reason=problem,
            )  # fmt: skip
        self.wake()

    # --- in threads ---------------------------------------------------------------------------

    def _act(self, name: str, make: Make, verb: str, actor: str, stop: bool) -> bool:
        stored = rows.load(self.parts.database, name)
        plan = stored.rollout.plan
        with self.parts.journal.act(f"rollout.{verb}", plan, actor=actor, stop=stop):
            found = make(stored, self.keeper.facts(stored))
            if found is None:
                return False
            self._carry_out(stored, found, stop=stop)
        return True

    def _advance(self, name: str) -> None:
        stored = rows.load(self.parts.database, name)
        beginning.publish_pending(self.parts, self.keeper, stored)
        for _ in range(STEPS):
            stored = rows.load(self.parts.database, name)
            self.keeper.repair(stored)
            stored = rows.load(self.parts.database, name)
            self._adopt(stored)
            facts = self.keeper.facts(stored)
            found = step(stored.rollout, stored.plan, stored.members, facts)
            found = self._judged(stored, found, facts)
            if found is None:
                return
            self._carry_out(stored, found, stop=False)

    def _judged(self, stored: Stored, found: Step | None, facts: Facts) -> Step | None:
        """Return `found`, or what follows when nodes would not obey the gate that it wants."""
        if found is None or found.publish is None or found.publish.state != "open":
            return found
        hold = self.keeper.hold(stored, found.publish)
        if hold.startswith("refuse"):
            return halt(stored.rollout, Breach("refused", hold))
        if hold:
            return step(stored.rollout, stored.plan, stored.members, replace(facts, hold=hold))
        return found

    def _carry_out(self, stored: Stored, found: Step, *, stop: bool) -> None:
        """The rows say what is wanted; from here on a kill cannot lose it. Then the gate."""
        parts, rollout, wanted = self.parts, found.rollout, found.publish
        if wanted is not None and not self._may_set_gate(stored, found):
            # The gate's place belongs to another plan now; or, aborted at once, to the former one.
            beginning.check_gateless(rollout)
            wanted = None
        if wanted is not None and wanted.state not in ("paused", "halted"):
            # A gate that nodes would refuse is never wanted; a stop is told in any case.
            self.keeper.check(stored, wanted)
        gseq = stored.gseq
        with parts.database.write() as connection:
            if wanted is not None:
                key = f"gseq:{rollout.plan}"
                gseq = parts.database.take(connection, key, at_least=gseq + 1)
            rows.save(connection, rollout, found.members, at=write_time(parts.clock()), gseq=gseq)
            if rollout.state in ENDED:
                beginning.release_lock(connection, rollout)
        if wanted is not None:
            self.keeper.publish(replace(stored, rollout=rollout, gseq=gseq), wanted)

    def _repair(self, name: str) -> bool:
        stored = rows.load(self.parts.database, name)
        if not self._is_published(stored):
            return False
        self.keeper.repair(stored)
        self._adopt(stored)
        return True

    def _adopt(self, stored: Stored) -> None:
        """Nodes enrolled since the start follow the gate too, and count in nothing."""
        version = self.library.version()
        if self._adopted.get(stored.rollout.id) == version:
            return
        ground = self.library.ground(stored.rollout.env, stored.rollout.app)
        known = {member.node for member in stored.members}
        late = [m for m in beginning.members(self.parts, stored.plan, ground)
                if m.node not in known]  # fmt: skip
        if late:
            with self.parts.database.write() as connection:
                found = (replace(member, late=True) for member in late)
                rows.insert_members(connection, stored.rollout.id, found)
        self._adopted[stored.rollout.id] = version

    def _may_set_gate(self, stored: Stored, found: Step) -> bool:
        """Return whether the app's gate is this plan's to set.

        A plan whose approval lost its signatures is no plan any more, and still is stopped.
        """
        if self._is_published(stored):
            return True
        docs = self.library.ground(stored.rollout.env, stored.rollout.app).docs
        stops = found.publish is not None and found.publish.state in ("paused", "halted")
        return stops and docs.plan is None and found.rollout.state != "aborted"

    def _is_published(self, stored: Stored) -> bool:
        docs = self.library.ground(stored.rollout.env, stored.rollout.app).docs
        return docs.plan_digest == stored.rollout.plan

    def _report(self, name: str, node: str, change: Change) -> Member:
        stored = rows.load(self.parts.database, name, node=node)
        old, now = stored.member(node), self.parts.unix()
        new = change(old, now)
        if new != old:
            at = write_time(self.parts.clock())
            with self.parts.database.write() as connection:
                rows.move(connection, stored.rollout, old, new, at=at, now=now)
        return new

    def _receipt(self, name: str, told: Told) -> list[str]:
        """Keep the receipt and move its node in one transaction; return faults of its chain."""
        parts, receipt = self.parts, told.receipt
        at, now = write_time(parts.clock()), parts.unix()
        plan_digest = receipt.plan.hex()
        stored = self._of_plan(name, plan_digest, receipt.node)
        with parts.database.write() as connection:
            before = last_number(connection, key=told.key, plan=plan_digest)
            new, problems = keep(connection, told, rollout=name if stored else "", at=at)
            if stored is None or not new or receipt.rseq < before:
                return problems
            old = next((m for m in stored.members if m.node == receipt.node), None)
            if old is None or not reports.is_about(receipt, stored.plan, plan_digest, old):
                return [*problems, "a receipt about a wave that the node is not in"]
            moved = reports.on_receipt(old, receipt, stored.plan, plan_digest, now=now)
            if moved != old:
                rows.move(connection, stored.rollout, old, moved, at=at, now=now)
        return problems

    def _of_plan(self, name: str, plan_digest: str, node: str) -> Stored | None:
        """Return the roll-out of this plan; None: another gateway's, so it is only kept."""
        try:
            stored = rows.load(self.parts.database, name, node=node)
        except NotFound:
            return None
        except EmbrasureError:
            # A damaged row stops that roll-out; the receipt must not be lost with it.
            return None
        return stored if stored.rollout.plan == plan_digest else None
