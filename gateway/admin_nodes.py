"""What operators ask about the identity of one node; a part of the Admin service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embrasure.net.identity import check_name
from embrasure.trust import layout
from embrasure.wire import admin_pb2 as wire
from gateway.answers import answer

if TYPE_CHECKING:
    from gateway.admin import Parts

Context = Any  # grpc.aio.ServicerContext, which cannot be made in a type check without a server


class NodeActs:
    """Handlers over single nodes; `Admin` has the rest."""

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
