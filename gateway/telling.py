"""Trust files that this gateway publishes go to its push nodes at once, not with the next order.

A denial that waits for a roll-out stops nobody. A node takes them as its metadata door does: each
file proves itself, nothing starts an install, and what is not newer changes nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from logging import getLogger

from embrasure import limits
from embrasure.errors import EmbrasureError
from embrasure.net.credentials import channel
from embrasure.net.deliver import Caller, deliver
from embrasure.trust import layout
from embrasure.trust.directory import shard_of
from embrasure.trust.fetcher import fetch_whole
from gateway.certificate_rows import Key
from gateway.dialling import pause_s
from gateway.init import is_trust_file
from gateway.library import Library
from gateway.listeners import ListenerAt, all_listeners
from gateway.parts import EngineParts
from gateway.push import approval_by
from gateway.takeover import learn, unpublished

LOG = getLogger(__name__)


@dataclass(slots=True)
class _Node:
    """What one node was told: the files of the last delivery it answered, and when to try again."""

    told: frozenset[str] = frozenset()
    asked: set[str] = field(default_factory=set)  # approval roles whose numbers it was asked for
    failures: int = 0
    again_at: float = 0.0


@dataclass(slots=True)
class Telling:
    """Brings each push node what it was not told yet; who is away hears of it when back."""

    parts: EngineParts
    library: Library
    _nodes: dict[Key, _Node] = field(default_factory=dict)
    _room: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(limits.RENEWALS_AT_ONCE)
    )

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            try:
                await self.look()
            except EmbrasureError as problem:
                LOG.debug("trust files: %s [%s]", problem, problem.word)
            await asyncio.sleep(self.parts.pace.tell_s)

    async def look(self) -> None:
        """Every push node that lacks something was told, or is tried again later."""
        found, _ = await asyncio.to_thread(all_listeners, self.parts, self.library)
        nodes = {key: one for key, one in found.items() if one.entry is not None}
        self._nodes = {key: self._nodes.get(key, _Node()) for key in nodes}
        await asyncio.gather(*(self._one(self._nodes[key], one) for key, one in nodes.items()))

    async def _one(self, node: _Node, one: ListenerAt) -> None:
        names = await asyncio.to_thread(self._names, one)
        loop = asyncio.get_running_loop()
        if names == node.told or loop.time() < node.again_at:
            return
        async with self._room:
            try:
                await self._tell(one, names)
                await self._learn(one, node)
            except EmbrasureError as problem:
                node.failures += 1
                pace = self.parts.pace
                node.again_at = loop.time() + pause_s(
                    node.failures, first=pace.redial_s, most=pace.redial_max_s
                )
                LOG.info("%s was not told: %s [%s]", one.identity, problem, problem.word)
                return
        node.told, node.failures, node.again_at = names, 0, 0.0

    def _names(self, one: ListenerAt) -> frozenset[str]:
        """Return the trust files of its environment; of the directory, its own shard alone."""
        env = one.key[2]
        policy = self.library.ground(env, "").docs.policy
        mine = f".{shard_of(one.key[1], policy.shards)}.json" if policy is not None else ""
        folder = layout.target_file(layout.shard_path(env, "00"), "").rpartition("/")[0]
        first = layout.metadata_file(layout.ROOT, 1)
        return frozenset(
            path
            for path in self.library.contents().trust_of(env)
            if is_trust_file(path)
            and path != first
            and (not path.startswith(f"{folder}/") or path.endswith(mine))
        )

    async def _tell(self, one: ListenerAt, names: frozenset[str]) -> None:
        files = await asyncio.to_thread(self._files, names)
        key, chain_pem = await asyncio.to_thread(self.parts.identity.client)
        caller = Caller(
            domain=one.trust.domain,
            roots_pem=one.trust.pem([one.identity.role]),
            key=key,
            chain_pem=chain_pem,
        )
        told = await deliver(
            one.address, role="node", name=one.identity.name, caller=caller, files=files
        )
        for role, word in told.refused.items():
            LOG.warning("%s refused %s: %s", one.identity, role, word)

    async def _learn(self, one: ListenerAt, node: _Node) -> None:
        """A gateway that has not published an app yet asks what the node has seen of it."""
        parts = self.parts
        roles = await asyncio.to_thread(unpublished, parts.repository, one.key[2])
        if not set(roles) - node.asked:
            return
        key_pem, chain_pem = await asyncio.to_thread(parts.identity.client)
        async with channel(
            one.address, role="node", name=one.identity.name, domain=one.trust.domain,
            issuer_pems=one.trust.pem(["node"]), key=key_pem, chain_pem=chain_pem,
        ) as out:  # fmt: skip
            who = f"node/{one.identity.name}"
            await learn(parts, partial(approval_by, out), roles, node.asked, who)

    def _files(self, names: frozenset[str]) -> dict[str, bytes]:
        source = self.parts.repository.source()
        return {
            path: fetch_whole(source, path, limit=limits.DOOR_DOCUMENT_BYTES)
            for path in sorted(names)
        }
