"""Who is in the fleet and where, as operators tell it: a part of the Admin service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from embrasure import limits
from embrasure.errors import Refused
from embrasure.net.door import read_files
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

    async def TrustHolders(self, request: wire.Query, context: Context) -> wire.Json:
        """Answer with which `tls.json` each listener and node of an environment believes."""
        await self._caller("TrustHolders", context, layout.check_env(request.env))
        found = await self._parts.rollouts.holders(request.env)
        return answer("embrasure.fleet.trust/1", {"env": request.env, "holders": found})

    async def RecoverNode(self, request: wire.NodeRequest, context: Context) -> wire.Json:
        """Answer with the new certificate of a node that slept through its own."""
        person = await self._asker("RecoverNode", request.env, request.node, context)
        found = await self._parts.rollouts.recover(request.env, request.node, by=person)
        return answer("embrasure.fleet.recover/1", {"env": request.env, "node": request.node,
                                                    **found})  # fmt: skip

    async def JoinStatement(self, request: wire.NodeRequest, context: Context) -> wire.JoinReply:
        """Answer with what a node that joins says, and the certificate at its address."""
        person = await self._asker("JoinStatement", request.env, request.node, context)
        await self._note(person, request.node, "statement")
        found = await self._parts.rollouts.relay.statement(request.env, request.node)
        return wire.JoinReply(
            body=found.statement, mac=found.mac, leaf=found.leaf, gateway=found.gateway
        )

    async def JoinProve(self, request: wire.JoinRequest, context: Context) -> wire.JoinReply:
        """Answer with the node's proof."""
        await self._asker("JoinProve", request.env, request.node, context)
        if len(request.body) > limits.CHALLENGE_BYTES:
            raise Refused("challenge", expected="8 KiB", got=len(request.body), reason="limit")
        proof, chain = await self._parts.rollouts.relay.prove(
            request.env, request.node, request.leaf, request.body
        )
        return wire.JoinReply(body=proof, gateway=chain)

    async def JoinAnswer(
        self, requests: AsyncIterator[wire.JoinPart], context: Context
    ) -> wire.Json:
        """Bring the node the security team's answer, and the trust files that vouch for it."""
        first = await anext(requests, None)
        if first is None or first.path:
            raise Refused("answer", expected="the answer first", got="else", reason="bad-schema")
        person = await self._asker("JoinAnswer", first.env, first.node, context)
        if len(first.body) > limits.ANSWER_BYTES:
            raise Refused("answer", expected="40 KiB", got=len(first.body), reason="limit")
        files = await read_files(requests)
        await self._note(person, first.node, "answer")
        await self._parts.rollouts.relay.answer(
            first.env, first.node, first.leaf, first.body, files
        )
        return answer("embrasure.fleet.join/1", {"env": first.env, "node": first.node})

    async def _asker(self, method: str, env: str, node: str, context: Context) -> str:
        layout.check_env(env)
        check_name(node)
        return await self._caller(method, context, env)

    async def _note(self, person: str, node: str, what: str) -> None:
        await asyncio.to_thread(
            self._parts.journal.note, "join", node, result="relayed", reason=what,
            actor=f"operator/{person}",
        )  # fmt: skip

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
