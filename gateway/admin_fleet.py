"""Who is in the fleet and where, as operators tell it: a part of the Admin service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from embrasure import limits
from embrasure.net.identity import check_name
from embrasure.trust import layout
from embrasure.wire import admin_pb2 as wire
from gateway import adopt, uploads
from gateway.addresses import set_address
from gateway.answers import answer
from gateway.named import open_plans

if TYPE_CHECKING:
    from gateway.admin import Parts

Context = Any  # grpc.aio.ServicerContext, which cannot be made in a type check without a server


class FleetActs:
    """Handlers over the fleet itself; `Admin` has the rest."""

    _parts: Parts

    async def _caller(self, method: str, context: Context, env: str = "") -> str:
        """Return the caller, whom the policy of `env` lets do this."""
        raise RuntimeError("the service that has these handlers says who calls")

    async def RecoverNode(self, request: wire.NodeRequest, context: Context) -> wire.Json:
        """Answer with the new certificate of a node that slept through its own."""
        layout.check_env(request.env)
        check_name(request.node)
        person = await self._caller("RecoverNode", context, request.env)
        found = await self._parts.rollouts.recover(request.env, request.node, by=person)
        return answer("embrasure.fleet.recover/1", {"env": request.env, "node": request.node,
                                                    **found})  # fmt: skip

    async def SubmitTrust(
        self, requests: AsyncIterator[wire.TrustFile], context: Context
    ) -> wire.Json:
        """Publish trust files that verify themselves."""
        person = await self._caller("SubmitTrust", context)
        files, force = await uploads.receive_trust(requests)
        with self._parts.journal.act(
            "submit-trust", f"{len(files)} files", actor=f"operator/{person}",
            files=sorted(files)[: limits.LIST_ROWS],
        ):  # fmt: skip
            plans = await asyncio.to_thread(open_plans, self._parts.database)
            done = await asyncio.to_thread(
                adopt.adopt, self._parts.repository, files, force=force, plans=plans
            )
        self._parts.on_change()
        return answer("embrasure.trust.submit/1", {"roles": done})

    async def SetAddress(self, request: wire.AddressRequest, context: Context) -> wire.Json:
        """Remember where a node, mirror or letterbox is dialled."""
        person = await self._caller("SetAddress", context, request.env)
        found = await asyncio.to_thread(
            set_address, self._parts.database, self._parts.journal, request, person=person
        )
        self._parts.on_change()
        return answer("embrasure.address/1", found)
