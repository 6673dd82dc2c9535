"""A node's metadata door, open, and whoever comes to it with trust files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from embrasure.errors import EmbrasureError
from embrasure.net.credentials import Pair
from embrasure.net.deliver import Caller, deliver
from embrasure.net.door import (
    DoorKeys,
    Outcome,
    door_server,
)
from embrasure.net.server import bind
from tests.simulate.authority import Authority, Leaf, pem_of

AUTHORITY = Authority()
NODE = "n-" + "a" * 26
FILES = {"metadata/2.root.json": b"{}", "targets/revoked/" + "0" * 64 + ".dev.json": b"{}"}


def a_leaf(role: str, name: str, authority: Authority = AUTHORITY, **forged: Any) -> Leaf:
    """Return a certificate of the fleet's authority, or of another."""
    return authority.leaf(role, name, **forged)


def caller(leaf: Leaf, authority: Authority = AUTHORITY) -> Caller:
    """Return who brings files with this certificate."""
    roots = pem_of(authority.root.certificate)
    return Caller(authority.domain, roots, leaf.key_pem, leaf.chain_pem)


@dataclass
class Keeper:
    """What comes through a door; verifies nothing."""

    calls: list[Mapping[str, bytes]] = field(default_factory=list)
    answers: list[Outcome] = field(default_factory=list)

    def take(self, files: Mapping[str, bytes]) -> Outcome:
        """Return the next answer of the test."""
        self.calls.append(files)
        return self.answers.pop(0) if self.answers else Outcome({"root": 2})


@asynccontextmanager
async def opened(keeper: Keeper, authority: Authority = AUTHORITY) -> AsyncIterator[int]:
    """The door of a node, at the port that is yielded; `keeper` gets what comes through."""

    def roots() -> list[object]:
        return [authority.root.certificate]

    served = a_leaf("node", NODE, authority)
    keys = DoorKeys(Pair(served.key_pem, served.chain_pem), roots, domain=authority.domain)  # type: ignore[arg-type]  # certificates
    server = door_server(keeper.take, roots, domain=authority.domain)  # type: ignore[arg-type]  # certificates
    port = bind(server, "127.0.0.1:0", keys)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


async def put(port: int, who: Caller, files: Mapping[str, bytes] = FILES) -> Outcome:
    """Return what the door at `port` took."""
    return await deliver(f"127.0.0.1:{port}", role="node", name=NODE, caller=who, files=files)


def refusal(who: Caller, files: Mapping[str, bytes] = FILES) -> tuple[EmbrasureError, Keeper]:
    """Return how a delivery ended that must not be taken, and what came through."""
    keeper = Keeper()

    async def course() -> EmbrasureError:
        async with opened(keeper) as port:
            with pytest.raises(EmbrasureError) as found:
                await put(port, who, files)
            return found.value

    return asyncio.run(course()), keeper
