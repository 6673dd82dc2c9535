"""What the gateway relays for a node that joins: it reads the leaf, dials it, carries bytes.

Nothing here is believed or decided: the keyholder's tool checks every byte against a token that
this gateway never saw.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from sqlalchemy import select

from embrasure import limits
from embrasure.errors import NotFound, Refused, Unavailable
from embrasure.net.certificates import load_certificates, pem_of
from embrasure.net.credentials import channel
from embrasure.net.status import error_of
from embrasure.wire import joining_pb2, joining_pb2_grpc
from gateway import probe, tables
from gateway.library import Library
from gateway.parts import EngineParts

CALL_SECONDS = 30.0
_STATEMENT_BYTES = 2 * limits.STATEMENT_BYTES


@dataclass(frozen=True, slots=True)
class Said:
    """What a node said. leaf: the certificate at its address; gateway: our own chain (PEM)."""

    statement: bytes
    mac: str
    leaf: bytes
    gateway: bytes


@dataclass(frozen=True, slots=True)
class Relay:
    """Dials nodes that are in no directory yet."""

    parts: EngineParts
    library: Library

    async def statement(self, env: str, node: str) -> Said:
        """Return what answers at the node's address; raises NotFound, Unavailable, Refused."""
        address = await asyncio.to_thread(self._address, env, node)
        shown = await asyncio.to_thread(probe.shown, address)
        if shown is None:
            raise Unavailable(f"node {node}", expected=f"TLS at {address}", got="no answer")
        leaf = pem_of(shown)
        async with self._dialled(env, node, address, leaf) as (stub, chain):
            found = await stub.Statement(joining_pb2.StatementAsk(), timeout=CALL_SECONDS)
        if len(found.statement) > _STATEMENT_BYTES or len(found.mac) > 64:
            raise Refused(f"node {node}", expected="a statement and a MAC", got="more",
                          reason="limit")  # fmt: skip
        return Said(found.statement, found.mac, leaf, chain)

    async def prove(
        self, env: str, node: str, leaf: bytes, challenge: bytes
    ) -> tuple[bytes, bytes]:
        """Return the node's answer to a challenge, and our own chain as it saw it."""
        address = await asyncio.to_thread(self._address, env, node)
        async with self._dialled(env, node, address, leaf) as (stub, chain):
            ask = joining_pb2.ProveAsk(challenge=challenge)
            found = await stub.Prove(ask, timeout=CALL_SECONDS)
        if len(found.proof) > limits.CHALLENGE_BYTES:
            raise Refused(f"node {node}", expected="a proof", got="more", reason="limit")
        return found.proof, chain

    async def answer(
        self, env: str, node: str, leaf: bytes, answer: bytes, files: Mapping[str, bytes]
    ) -> None:
        """The node has taken the security team's answer, by the trust files that vouch for it."""
        address = await asyncio.to_thread(self._address, env, node)

        async def parts() -> AsyncIterator[joining_pb2.AnswerPart]:
            yield joining_pb2.AnswerPart(body=answer)
            for path, raw in files.items():
                yield joining_pb2.AnswerPart(path=path, body=raw)

        async with self._dialled(env, node, address, leaf) as (stub, _):
            await stub.Answer(parts(), timeout=2 * limits.DOOR_SECONDS)

    def _address(self, env: str, node: str) -> str:
        row = tables.addresses.c
        mine = (row.kind == "node") & (row.name == node) & (row.env == env)
        found = self.parts.database.first(select(row.address).where(mine))
        if found is None:
            raise NotFound(
                f"address of {node}", expected="one to dial", got="none",
                hint=f"embrasure fleet address node {node} HOST:PORT --env {env}",
                reason="no-address",
            )  # fmt: skip
        return str(found.address)

    @asynccontextmanager
    async def _dialled(
        self, env: str, node: str, address: str, leaf: bytes
    ) -> AsyncIterator[tuple[joining_pb2_grpc.JoiningStub, bytes]]:
        """Yield a stub that speaks with exactly this leaf, and our chain."""
        if len(load_certificates(leaf, what="leaf")) != 1:
            raise Refused("leaf", expected="one certificate", got="several", reason="pem")
        trust = await asyncio.to_thread(self.library.trust, env, "")
        key, chain_pem = self.parts.identity.client()
        async with channel(
            address,
            role="node",
            name=node,
            domain=trust.domain,
            issuer_pems=leaf,
            key=key,
            chain_pem=chain_pem,
        ) as line:
            try:
                yield joining_pb2_grpc.JoiningStub(line), chain_pem
            except grpc.aio.AioRpcError as problem:
                raise error_of(problem, thing=f"node {node} at {address}") from None
