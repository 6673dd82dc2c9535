"""The engine: runs every open roll-out of one gateway, from its first gate to its end.

It acts only on what is in the rows and in verified files, so it may be killed at any moment; a
start takes up where the rows stand, asks nodes again, and doubles nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import suppress
from logging import getLogger

from embrasure.errors import EmbrasureError
from gateway import controls, rollout_view, rows
from gateway.carriers import Carriers
from gateway.dialler import Dialler
from gateway.dialling import is_waiting
from gateway.holders import Holders
from gateway.joining import Relay
from gateway.parts import EngineParts
from gateway.renewals import Renewals
from gateway.rollout import Facts, Step
from gateway.rows import Stored
from gateway.states import ENDED
from gateway.steering import Make, Steering
from gateway.telling import Telling

LOG = getLogger(__name__)
GAP_S = 0.05  # reports that come together are looked at together
ACTS = frozenset({"gate", "order", "confirm", "publish", "certificate"})


class Engine:
    """One engine a gateway; its methods are called in the event loop that runs it."""

    def __init__(self, parts: EngineParts) -> None:
        self.parts = parts
        self._awake = asyncio.Event()
        self._told = asyncio.Condition()
        self.steering = Steering(parts, self.wake)
        self.dialler = Dialler(parts, self.steering)
        self.carriers = Carriers(parts, self.steering)
        self.renewals = Renewals(parts, self.steering.library)
        self.relay = Relay(parts, self.steering.library)
        self.telling = Telling(parts, self.steering.library)
        self.problems: dict[str, str] = {}

    def wake(self) -> None:
        """Look at everything soon: something changed."""
        self._awake.set()

    # --- running ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until cancelled; then streams end, and nodes go on by themselves."""
        await asyncio.to_thread(self._resume)
        works = (self._renew(), self.renewals.run(), self.telling.run())
        jobs = [asyncio.ensure_future(work) for work in works]
        try:
            while True:
                self._awake.clear()
                await self._round()
                async with self._told:
                    self._told.notify_all()
                await asyncio.sleep(GAP_S)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._awake.wait(), self.parts.pace.tick_s)
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            await self.dialler.close()
            await self.carriers.close()

    def _resume(self) -> None:
        """Acts whose end a kill has hidden get one: what they wanted is asked for again."""
        for event in self.parts.journal.open_intents():
            if event.act in ACTS or event.act.startswith("rollout."):
                self.parts.journal.outcome(event.n, "unknown", reason="gateway was started again")
        with suppress(EmbrasureError):
            # A gateway without a first publication has nothing to show yet.
            self.steering.library.contents()

    async def _round(self) -> None:
        """Look at each roll-out once; one that is damaged stops alone."""
        names = await asyncio.to_thread(rows.open_ids, self.parts.database)
        for name in names:
            await self._guarded(name, self._one(name))
        for name in await asyncio.to_thread(rows.newest_ended_ids, self.parts.database):
            await self._guarded(name, self._tail(name))
        if names:
            self.carriers.busy.set()
        else:
            self.carriers.busy.clear()
        await self._guarded("mirrors", self.carriers.tick())

    async def _guarded(self, what: str, work: Awaitable[object]) -> None:
        try:
            await work
            self.problems.pop(what, None)
        except EmbrasureError as problem:
            told = f"{problem} [{problem.word}]"
            if self.problems.get(what) != told:
                LOG.error("%s: %s", what, told)
            self.problems[what] = told

    async def _one(self, name: str) -> None:
        await self.steering.advance(name)
        stored = await asyncio.to_thread(rows.load, self.parts.database, name)
        self.dialler.tick(stored)

    async def _tail(self, name: str) -> None:
        """The last gate is out, and push nodes that were away take it when they come back."""
        if not await self.steering.repair(name):
            return
        stored = await asyncio.to_thread(rows.load, self.parts.database, name)
        if stored.rollout.state == "succeeded" and any(map(is_waiting, stored.members)):
            self.dialler.tick(stored)

    async def _renew(self) -> None:
        """Timestamp, snapshot and gates are signed again before they grow old."""
        while True:
            await self._guarded("renewal", asyncio.to_thread(self.parts.repository.renew))
            self.wake()
            await asyncio.sleep(self.parts.pace.renew_s)

    # --- what operators ask -------------------------------------------------------------------

    async def start(self, env: str, app: str, plan: str, *, by: str) -> str:
        """Return the id of the roll-out of exactly this approved plan, published and running."""
        digest = plan.removeprefix("sha256:")
        return await self.steering.start(env, app, digest, actor=_actor(by))

    async def pause(self, id: str, reason: str, *, by: str) -> None:
        """Nothing new starts; nodes in flight finish and report."""
        await self._act(
            id, lambda stored, _: controls.pause(stored.rollout, reason), "pause", by, stop=True
        )

    async def resume(self, id: str, reason: str, *, by: str) -> None:
        """It goes on where it was; from `halted` only when the failure policy holds again."""

        def make(stored: Stored, facts: Facts) -> Step | None:
            return controls.resume(stored.rollout, stored.plan, stored.counted, facts)

        await self._act(id, make, "resume", by)

    async def abort(self, id: str, reason: str, *, by: str) -> None:
        """Its gate is halted for good, and it ends when nobody is between two releases."""
        await self._act(
            id,
            lambda stored, facts: controls.abort(stored.rollout, reason, now=facts.now),
            "abort",
            by,
            stop=True,
        )

    async def retry(
        self, id: str, *, nodes: Sequence[str], failed: bool, unreachable: bool, by: str
    ) -> None:
        """Nodes that are not done try again; healthy ones stay."""
        again: list[str] = []

        def make(stored: Stored, facts: Facts) -> Step | None:
            chosen = controls.choose(
                stored.members, nodes=nodes, failed=failed, unreachable=unreachable
            )
            again.extend(member.node for member in chosen)
            return controls.retry(stored.rollout, stored.plan, chosen, now=facts.now)

        name = await self._act(id, make, "retry", by)
        self.dialler.forget(name, tuple(again))

    async def _act(self, id: str, make: Make, verb: str, by: str, *, stop: bool = False) -> str:
        name = await asyncio.to_thread(rows.find, self.parts.database, id)
        await self.steering.act(name, make, verb=verb, actor=_actor(by), stop=stop)
        return name

    async def holders(self, env: str) -> list[dict[str, object]]:
        """Return who believes which `tls.json` in an environment; raises Refused."""
        return await Holders(self.parts, self.steering.library, self.carriers).of(env)

    async def recover(self, env: str, node: str, *, by: str) -> dict[str, object]:
        """Return the new certificate of a node that slept through its own."""
        return (await self.renewals.recover(env, node, actor=_actor(by))).as_json()

    # --- what people see ----------------------------------------------------------------------

    def status(self, id: str) -> dict[str, object]:
        """Return the body of `embrasure.rollout.status/1`."""
        name = rows.find(self.parts.database, id)
        stored = rows.load(self.parts.database, name)
        found = rollout_view.status(
            stored,
            self.steering.keeper.evidence(stored),
            progress=self.dialler.progress,
            logs=rollout_view.failure_logs(self.parts.database, stored, self.parts.collect_key),
            places=self.carriers.status(),
        )
        return {**found, "problem": self.problems.get(name, "")}

    def listing(self, env: str, app: str, limit: int) -> dict[str, object]:
        """Return the newest roll-outs."""
        found = rollout_view.listing(self.parts.database, env=env, app=app, limit=limit or 100)
        return {"rollouts": found}

    async def watch(self, id: str, after: int) -> AsyncIterator[Mapping[str, object]]:
        """Yield events after the cursor, then new ones as they come, to the roll-out's end."""
        name = await asyncio.to_thread(rows.find, self.parts.database, id)
        while True:
            # The state is read first: an end seen here has all its events below.
            stored = await asyncio.to_thread(rows.load, self.parts.database, name)
            events = await asyncio.to_thread(rows.events_after, self.parts.database, name, after)
            for event in events:
                after = int(str(event["n"]))
                yield event
            if not events and stored.rollout.state in ENDED:
                return
            if not events:
                async with self._told:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._told.wait(), self.parts.pace.tick_s)


def _actor(by: str) -> str:
    return by if "/" in by else f"operator/{by}"
