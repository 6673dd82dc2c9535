"""The listener of the metadata door: any client leaf below a CA root of the fleet, and no list.

No denial, no bundle, no state of an issuer is asked here. What comes in proves itself, and whatever
could lock a caller out could lock the repair out.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from cryptography import x509

from embrasure import limits
from embrasure.clock import Clock, now
from embrasure.errors import Refused, Unavailable
from embrasure.net.authorize import (
    Auth,
    Groups,
    Table,
    check_not_resumed,
    check_transport,
    peer_chain,
    peer_identity,
)
from embrasure.net.certificates import pem_of
from embrasure.net.credentials import Pair, ServerKeys
from embrasure.net.identity import PROFILES, Identity
from embrasure.net.profile import check_leaf
from embrasure.net.server import Service, build_server
from embrasure.net.source import source_of
from embrasure.net.threads import unbroken
from embrasure.net.trustbundle import TrustHolder, check_issuer, first_trust
from embrasure.trust.door import Taken
from embrasure.trust.listing import check_trust_path
from embrasure.wire import door_pb2 as wire
from embrasure.wire import door_pb2_grpc

if TYPE_CHECKING:
    from embrasure.net.authorize import Context

DOOR_TABLE: Table = {"/embrasure.v1.Door/Put": frozenset({"gateway", "operator"})}
_MINUTE = 60.0
_ADDRESSES = 1_024  # remembered for the quota; the longest quiet ones go first


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a delivery. taken: role -> version; refused: role -> a stable word."""

    taken: Mapping[str, int]
    missing: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


Take = Callable[[Mapping[str, bytes]], Outcome]
Roots = Callable[[], Sequence[x509.Certificate]]


def outcome_of(taken: Taken) -> Outcome:
    """Return what a peer is told of `taken`."""
    words = {role: problem.word for role, problem in taken.refused.items()}
    return Outcome(dict(taken.roles), taken.missing, words)


class DoorKeys(ServerKeys):
    """What the door shows, and the CA roots that it lets in by; read before every handshake."""

    def __init__(self, pair: Pair, roots: Roots, *, domain: str) -> None:
        super().__init__(pair, TrustHolder(first_trust(domain, "gateway", ())), roles=())
        self._roots = roots

    def anchors(self) -> bytes:
        """Return the CA roots as PEM; raises Refused (`no-issuer`): none would let anybody in."""
        return anchors_of(self._roots())


def anchors_of(roots: Sequence[x509.Certificate]) -> bytes:
    """Return `roots` as PEM, each once; raises Refused (`no-issuer`)."""
    found = dict.fromkeys(roots)
    if not found:
        raise Refused("door", expected="a CA root", got="none", reason="no-issuer")
    return b"".join(pem_of(cert) for cert in found)


class DoorPeers:
    """Says who calls the door: a client's whole profile, chained to a CA root; no list is asked."""

    def __init__(
        self, roots: Roots, *, domain: str, clock: Clock = now, groups: Groups = "hybrid"
    ) -> None:
        self._roots, self._domain, self._clock, self._groups = roots, domain, clock, groups

    def identify(self, auth: Auth) -> Identity:
        """Return the peer's identity; raises Refused.

        Steps: 1 transport, 2 no resumed session, 3 one name, 4 an issuer below a CA root, 5 the
        profile of its role. TLS has refused servers' leaves and expired ones already.
        """
        # 1.
        check_transport(auth, groups=self._groups)
        # 2.
        check_not_resumed(auth)
        # 3.
        identity = peer_identity(auth, domain=self._domain)
        # 4.
        leaf, *above = peer_chain(auth)
        for cert in above:
            check_issuer(cert, roots=list(self._roots()), name=PROFILES[identity.role].issuer)
        # 5.
        check_client(leaf, identity, above, domain=self._domain, at=self._clock())
        return identity


def check_client(
    leaf: x509.Certificate,
    identity: Identity,
    issuers: Sequence[x509.Certificate],
    *,
    domain: str,
    at: datetime,
) -> None:
    """Return only when `leaf` is a whole, honest leaf of `identity` by one of `issuers`."""
    found = check_leaf(leaf, role=identity.role, issuers=issuers, domain=domain, at=at)
    if found != identity:
        raise Refused("door", expected=str(identity), got=str(found), reason="identity")


class Quota:
    """How much one address may ask: one call at a time, a few a minute."""

    def __init__(self, ticks: Callable[[], float] = time.monotonic) -> None:
        self._ticks = ticks
        self._open: Counter[str] = Counter()
        self._calls: dict[str, deque[float]] = {}

    @contextmanager
    def entered(self, address: str) -> Iterator[None]:
        """One call of `address` runs; raises Unavailable (`busy`, `quota`)."""
        if self._open[address] or self._open.total() >= limits.DOOR_CALLS:
            raise Unavailable("door", expected="a free hand", got="another call", reason="busy")
        self._count(address)
        self._open[address] += 1
        try:
            yield
        finally:
            del self._open[address]

    def _count(self, address: str) -> None:
        at = self._ticks()
        calls = self._calls.pop(address, deque())
        while calls and at - calls[0] >= _MINUTE:
            calls.popleft()
        self._calls[address] = calls
        while len(self._calls) > _ADDRESSES:
            del self._calls[next(iter(self._calls))]
        if len(calls) >= limits.DOOR_CALLS_PER_MINUTE:
            raise Unavailable(
                "door",
                expected=f"at most {limits.DOOR_CALLS_PER_MINUTE} calls a minute",
                got="more",
                reason="quota",
            )
        calls.append(at)


class DoorService:
    """Door (`proto/door.proto`). take: verifies and keeps; called in a thread, one at a time."""

    def __init__(self, take: Take, quota: Quota | None = None) -> None:
        self._take, self._quota = take, quota or Quota()
        self._turn = asyncio.Lock()

    async def Put(
        self, request_iterator: AsyncIterator[wire.DoorFile], context: Context
    ) -> wire.DoorReply:
        """What verifies by itself and is newer counts from now on."""
        with self._quota.entered(source_of(context.peer())):
            try:
                async with asyncio.timeout(limits.DOOR_SECONDS):
                    files = await read_files(request_iterator)
            except TimeoutError:
                raise Unavailable(
                    "door", expected=f"all files in {limits.DOOR_SECONDS} s", got="fewer",
                    reason="slow",
                ) from None  # fmt: skip
            async with self._turn:
                found = await unbroken(self._take, files)
        return wire.DoorReply(
            taken=found.taken, missing=found.missing[: limits.DOOR_FILES], refused=found.refused
        )


class TrustFile(Protocol):
    """One whole file under its repository path."""

    path: str
    body: bytes


async def read_files(requests: AsyncIterator[TrustFile]) -> dict[str, bytes]:
    """Return the delivery, which has trust files only; raises Refused (`limit`, `not-trust`)."""
    files: dict[str, bytes] = {}
    left = limits.DOOR_BYTES
    async for one in requests:
        left -= len(one.path) + len(one.body)
        if left < 0 or len(files) >= limits.DOOR_FILES:
            raise Refused(
                "delivery", expected=f"{limits.DOOR_BYTES} bytes, {limits.DOOR_FILES} files",
                got="more", reason="limit",
            )  # fmt: skip
        check_trust_path(one.path)
        files[one.path] = one.body
    return files


def short_connections() -> dict[str, int]:
    """Return bounds by which connections without a call soon end: a thief's key, which no denial
    shuts out here, could hold every one of them.
    """
    return {
        "grpc.max_connection_idle_ms": limits.DOOR_IDLE_MILLISECONDS,
        "grpc.max_connection_age_ms": 2 * limits.DOOR_SECONDS * 1000,
    }


def door_server(
    take: Take,
    roots: Roots,
    *,
    domain: str,
    clock: Clock = now,
    groups: Groups = "hybrid",
) -> grpc.aio.Server:
    """Return the door's server, not yet bound (`embrasure.net.server.bind` with `DoorKeys`)."""
    descriptor = wire.DESCRIPTOR.services_by_name["Door"]
    add: Any = door_pb2_grpc.add_DoorServicer_to_server
    return build_server(
        [Service(descriptor, add, DoorService(take))],
        DOOR_TABLE,
        DoorPeers(roots, domain=domain, clock=clock, groups=groups),
        connections=limits.DOOR_CONNECTIONS,
        clock=clock,
        bounds=short_connections(),
    )
