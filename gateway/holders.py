"""Which `tls.json` each node, mirror and letterbox believes: asked now, or its last receipt's word.

It says when the next step of a rotation cuts nobody off, and opens nothing: a lie costs no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import grpc
from sqlalchemy import func, select

from embrasure import limits
from embrasure.clock import write_time
from embrasure.errors import EmbrasureError
from embrasure.net.credentials import channel
from embrasure.trust import layout
from embrasure.trust.directory import Entry
from embrasure.trust.layout import DIGEST
from embrasure.wire import node_pb2, node_pb2_grpc
from gateway import tables
from gateway.carriers import Carriers
from gateway.library import Library
from gateway.listeners import addressed, believed, listener
from gateway.parts import EngineParts
from gateway.receipts import bundle_told

Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Holders:
    """Asks on behalf of one gateway."""

    parts: EngineParts
    library: Library
    carriers: Carriers

    async def of(self, env: str) -> list[Row]:
        """Return a row for each active node, mirror and letterbox of `env`.

        tls: SHA-256 of the bundle, "" when it did not say; at: when it said so. Raises Refused.
        """
        entries = await asyncio.to_thread(self._entries, env)
        where = await asyncio.to_thread(addressed, self.parts)
        told = await asyncio.to_thread(self._told, entries)
        room = asyncio.Semaphore(limits.HANDSHAKES_AT_ONCE)

        async def ask(entry: Entry) -> Row:
            address = where.get(("node", entry.id, env))
            if entry.mode == "pull" or address is None:
                tls, at = told.get(entry.receipt_id, ("", ""))
                return _row(entry.mode, entry.id, env, tls, at)
            async with room:
                tls = await self._ask(env, entry, address)
            return _row(entry.mode, entry.id, env, tls, write_time(self.parts.clock()))

        nodes = await asyncio.gather(*(ask(entry) for entry in entries))
        return [*nodes, *(await asyncio.to_thread(self._places, env))]

    def _entries(self, env: str) -> list[Entry]:
        ground = self.library.ground(layout.check_env(env), "")
        return [entry for entry in ground.entries.values() if entry.state == "active"]

    async def _ask(self, env: str, entry: Entry, address: str) -> str:
        """Return what a push node says now, "" when it cannot be asked."""
        with suppress(EmbrasureError, grpc.RpcError):
            key, chain_pem = self.parts.identity.client()
            known = await asyncio.to_thread(believed, self.parts, self.library, env)
            at = listener(("node", entry.id, env), address, known)
            async with channel(
                address,
                role="node",
                name=entry.id,
                domain=at.trust.domain,
                issuer_pems=at.trust.pem(["node"]),
                key=key,
                chain_pem=chain_pem,
            ) as line:
                stub = node_pb2_grpc.NodeStub(line)
                reply = await stub.Status(node_pb2.StatusRequest(), timeout=self.parts.pace.dial_s)
            return reply.tls if DIGEST.fullmatch(reply.tls) else ""
        return ""

    def _told(self, entries: list[Entry]) -> Mapping[str, tuple[str, str]]:
        """Return receipt key -> what its newest stored receipt says, and when that came."""
        key = self.parts.collect_key
        if key is None:
            return {}
        row = tables.receipts.c
        newest = select(row.key, func.max(row.rseq).label("rseq")).group_by(row.key).subquery()
        query = select(tables.receipts).join(
            newest, (row.key == newest.c.key) & (row.rseq == newest.c.rseq)
        )
        wanted = {entry.receipt_id for entry in entries}
        found = [one for one in self.parts.database.all(query) if one.key in wanted]
        return {one.key: (bundle_told(bytes(one.body), [key]), str(one.at)) for one in found}

    def _places(self, env: str) -> list[Row]:
        """Mirrors and letterboxes have verified what they show."""
        now, path = self.library.version(), layout.tls_path(env)
        listed = self.parts.repository.view().target(layout.fleet_role(env), path)
        current = listed.sha256 if listed is not None else ""
        at = write_time(self.parts.clock())
        return [
            _row(place.kind, place.name, env, current if shown.version == now else "", at)
            for place, shown in self.carriers.shown.items()
            if place.env in ("", env)
        ]


def _row(kind: str, name: str, env: str, tls: str, at: str) -> Row:
    return {"kind": kind, "name": name, "env": env, "tls": tls, "at": at if tls else ""}
