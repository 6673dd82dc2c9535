"""The Admin service: each method checks who calls, then calls one function; errors are typed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from embrasure import limits
from embrasure.bundle.store import BlobStore
from embrasure.errors import Refused
from embrasure.net.authorize import peer
from embrasure.trust import layout
from embrasure.wire import admin_pb2 as wire
from gateway import uploads, views
from gateway.admin_fleet import FleetActs
from gateway.answers import answer
from gateway.audit import Journal
from gateway.database import Database
from gateway.joining import Relay
from gateway.people import People
from gateway.proposals import Proposals
from gateway.repository import Repository
from gateway.rights import METHODS
from gateway.watch import Watch
from gateway.whoami import certificate_of, whoami

T = TypeVar("T")
Context = Any  # grpc.aio.ServicerContext, which cannot be made in a type check without a server
FOLLOW_SECONDS = 0.5


class Rollouts(Protocol):
    """What runs roll-outs, and dials: `gateway.engine.Engine`."""

    relay: Relay

    async def start(self, env: str, app: str, plan: str, *, by: str) -> str:
        """Return the id of the roll-out of an approved plan, started now."""
        ...

    async def pause(self, id: str, reason: str, *, by: str) -> None:
        """Nothing new is handed out."""
        ...

    async def resume(self, id: str, reason: str, *, by: str) -> None:
        """It goes on where it was."""
        ...

    async def abort(self, id: str, reason: str, *, by: str) -> None:
        """It is over."""
        ...

    async def retry(
        self, id: str, *, nodes: Sequence[str], failed: bool, unreachable: bool, by: str
    ) -> None:
        """Nodes that are not done try again."""
        ...

    async def recover(self, env: str, node: str, *, by: str) -> Mapping[str, object]:
        """Return the certificate of a node that was dialled by its boot certificate."""
        ...

    async def holders(self, env: str) -> Sequence[Mapping[str, object]]:
        """Return which `tls.json` each listener and node of an environment believes."""
        ...

    def status(self, id: str) -> Mapping[str, object]:
        """Return where it stands."""
        ...

    def listing(self, env: str, app: str, limit: int) -> Mapping[str, object]:
        """Return the newest roll-outs."""
        ...

    def watch(self, id: str, after: int) -> AsyncIterator[Mapping[str, object]]:
        """Yield its events after the cursor, to its end."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What the service works on."""

    name: str
    domain: str
    database: Database
    journal: Journal
    repository: Repository
    proposals: Proposals
    blobs: BlobStore
    people: People
    rollouts: Rollouts
    on_change: Callable[[], None]
    watch: Watch


class Admin(FleetActs):
    """The handlers; `gateway.service_table` lists them all."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def _caller(self, method: str, context: Context, env: str = "") -> str:
        person, right = peer(context).name, METHODS[method]
        return await asyncio.to_thread(self._parts.people.check, person, env, right=right)

    async def _owner(self, method: str, context: Context, name: str) -> str:
        """The caller, when the policy of the roll-out's own environment lists him."""
        env = await asyncio.to_thread(views.rollout_env, self._parts.database, name)
        return await self._caller(method, context, env)

    # --- reading -----------------------------------------------------------------------------

    async def Whoami(self, request: wire.Empty, context: Context) -> wire.Json:
        """Answer with whom the gateway takes the caller for."""
        shown = certificate_of(context)
        found = await asyncio.to_thread(whoami, self._parts, peer(context), shown)
        return answer("embrasure.whoami/1", found)

    async def Overview(self, request: wire.Empty, context: Context) -> wire.Json:
        """Answer with one screen."""
        person = await self._caller("Overview", context)
        found = await asyncio.to_thread(views.overview, self._parts, person)
        return answer("embrasure.status/1", found)

    async def Inventory(self, request: wire.Empty, context: Context) -> wire.Json:
        """Answer with what ends when."""
        await self._caller("Inventory", context)
        found = await asyncio.to_thread(views.inventory, self._parts)
        return answer("embrasure.inventory/1", found)

    async def ListReleases(self, request: wire.Query, context: Context) -> wire.Json:
        """Answer with proposals, newest first."""
        await self._caller("ListReleases", context)
        found = await asyncio.to_thread(views.releases, self._parts, _page(request))
        return answer("embrasure.release.list/1", found)

    async def ListApprovals(self, request: wire.Query, context: Context) -> wire.Json:
        """Answer with what waits, and who has signed."""
        person = await self._caller("ListApprovals", context)
        found = await asyncio.to_thread(views.approvals, self._parts, _page(request), person)
        return answer("embrasure.approvals/1", found)

    async def ListRollouts(self, request: wire.Query, context: Context) -> wire.Json:
        """Answer with roll-outs, newest first."""
        await self._caller("ListRollouts", context)
        page = _page(request)
        found = self._parts.rollouts.listing(page.env, page.app, page.limit)
        return answer("embrasure.rollout.list/1", found)

    async def RolloutStatus(self, request: wire.RolloutQuery, context: Context) -> wire.Json:
        """Answer with where one roll-out stands."""
        await self._caller("RolloutStatus", context)
        return answer("embrasure.rollout.status/1", self._parts.rollouts.status(request.id))

    async def WatchRollout(
        self, request: wire.RolloutQuery, context: Context
    ) -> AsyncIterator[wire.Json]:
        """Stream a roll-out's events."""
        await self._caller("WatchRollout", context)
        async for event in self._parts.rollouts.watch(request.id, number_of(request.after_event)):
            await self._caller("WatchRollout", context)
            yield answer("embrasure.rollout.event/1", event)

    async def Fleet(self, request: wire.Query, context: Context) -> wire.Json:
        """Answer with the nodes of an environment."""
        await self._caller("Fleet", context)
        found = await asyncio.to_thread(views.fleet, self._parts, _page(request))
        return answer("embrasure.fleet.list/1", found)

    async def Audit(self, request: wire.AuditQuery, context: Context) -> AsyncIterator[wire.Json]:
        """Stream the journal's records as they are chained."""
        cursor = number_of(request.since)
        while True:
            # A stream outlives the rights that it was opened with.
            await self._caller("Audit", context)
            lines = await asyncio.to_thread(self._parts.journal.lines, cursor)
            for line in lines:
                yield wire.Json(body=line)
            cursor += len(lines)
            if not lines:
                if not request.follow:
                    return
                await asyncio.sleep(FOLLOW_SECONDS)

    async def Fetch(
        self, request: wire.FetchRequest, context: Context
    ) -> AsyncIterator[wire.Chunk]:
        """Stream a file of the repository; whoever fetches it verifies it."""
        await self._caller("Fetch", context)
        layout.parse_file(request.path)
        pieces = self._parts.repository.source().fetch(
            request.path, offset=request.offset, limit=min(request.limit, limits.FILE_BYTES)
        )
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield wire.Chunk(body=piece)

    async def Proposal(self, request: wire.ProposalQuery, context: Context) -> wire.ProposalReply:
        """Answer with everything an approver works out again."""
        await self._caller("Proposal", context)
        return await asyncio.to_thread(views.proposal, self._parts, request.id)

    async def Reserve(self, request: wire.ReserveRequest, context: Context) -> wire.Json:
        """Answer with the number of the next plan of an app."""
        person = await self._caller("Reserve", context, request.env)
        number = await asyncio.to_thread(
            self._parts.proposals.reserve, request.env, request.app, person=person
        )
        return answer("embrasure.reserve/1", {"seq": number, "role_version": number})

    # --- proposing and approving -------------------------------------------------------------

    async def MissingBlobs(self, request: wire.BlobList, context: Context) -> wire.BlobList:
        """Answer with the blobs that are not here whole."""
        await self._caller("MissingBlobs", context)
        return await asyncio.to_thread(uploads.missing, self._parts.blobs, request)

    async def PutBlob(self, requests: AsyncIterator[wire.Upload], context: Context) -> wire.Json:
        """Store one blob; a broken upload goes on at its byte."""
        await self._caller("PutBlob", context)
        held = await uploads.receive(self._parts.blobs, requests)
        return answer("embrasure.blob/1", {"held": held})

    async def Propose(self, request: wire.ProposeRequest, context: Context) -> wire.Json:
        """Open a proposal."""
        person = await self._caller("Propose", context, request.env)
        name = await asyncio.to_thread(
            self._parts.proposals.propose,
            request.env,
            request.app,
            request.role,
            request.plan,
            request.statement,
            person=person,
            supersede=request.supersede,
        )
        return await self._state(name)

    async def Approve(self, request: wire.ApproveRequest, context: Context) -> wire.Json:
        """Count one signature."""
        person = await self._caller("Approve", context)
        await asyncio.to_thread(
            self._parts.proposals.approve,
            request.id,
            request.signature,
            request.statement,
            person=person,
        )
        return await self._state(request.id)

    async def Reject(self, request: wire.StatementRequest, context: Context) -> wire.Json:
        """End a proposal by one signed no."""
        person = await self._caller("Reject", context)
        await asyncio.to_thread(
            self._parts.proposals.reject, request.id, request.statement, person=person
        )
        return await self._state(request.id)

    async def Withdraw(self, request: wire.StatementRequest, context: Context) -> wire.Json:
        """Take back one's own proposal."""
        person = await self._caller("Withdraw", context)
        await asyncio.to_thread(
            self._parts.proposals.withdraw, request.id, request.statement, person=person
        )
        return await self._state(request.id)

    async def _state(self, name: str) -> wire.Json:
        found = await asyncio.to_thread(views.release, self._parts, name)
        return answer("embrasure.release/1", found)

    # --- running -----------------------------------------------------------------------------

    async def StartRollout(self, request: wire.StartRequest, context: Context) -> wire.Json:
        """Publish an approved plan and open its first wave."""
        person = await self._caller("StartRollout", context, request.env)
        name = await self._parts.rollouts.start(request.env, request.app, request.plan, by=person)
        return self._rollout(name)

    async def PauseRollout(self, request: wire.ActRequest, context: Context) -> wire.Json:
        """Hand out nothing new."""
        person = await self._owner("PauseRollout", context, request.id)
        await self._parts.rollouts.pause(request.id, request.reason, by=person)
        return self._rollout(request.id)

    async def ResumeRollout(self, request: wire.ActRequest, context: Context) -> wire.Json:
        """Go on."""
        person = await self._owner("ResumeRollout", context, request.id)
        await self._parts.rollouts.resume(request.id, request.reason, by=person)
        return self._rollout(request.id)

    async def AbortRollout(self, request: wire.ActRequest, context: Context) -> wire.Json:
        """End a roll-out."""
        person = await self._owner("AbortRollout", context, request.id)
        await self._parts.rollouts.abort(request.id, request.reason, by=person)
        return self._rollout(request.id)

    async def RetryRollout(self, request: wire.ActRequest, context: Context) -> wire.Json:
        """Try again on nodes that are not done."""
        person = await self._owner("RetryRollout", context, request.id)
        await self._parts.rollouts.retry(
            request.id,
            nodes=list(request.nodes),
            failed=request.failed,
            unreachable=request.unreachable,
            by=person,
        )
        return self._rollout(request.id)

    def _rollout(self, name: str) -> wire.Json:
        return answer("embrasure.rollout.status/1", self._parts.rollouts.status(name))


def number_of(value: int) -> int:
    """Return a number of the wire that the database can take, too; raises Refused (`limit`)."""
    if value > limits.MAX_INTEGER:
        raise Refused("number", expected="at most 2^53-1", got=value, reason="limit")
    return value


def _page(request: wire.Query) -> views.Page:
    return views.Page(
        env=request.env,
        app=request.app,
        limit=min(request.limit or limits.LIST_ROWS, limits.LIST_ROWS),
        cursor=request.cursor,
    )
