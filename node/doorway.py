"""The network side of a push node's metadata door: bytes in, apply's answer out.

It has a port of its own, for repairs past every denial, and stands on the push listener as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cryptography import x509

from embrasure.errors import Failed
from embrasure.net.authorize import Table
from embrasure.net.credentials import Pair
from embrasure.net.door import DoorKeys, DoorService, Outcome, door_server
from embrasure.net.server import Service, bind
from embrasure.trust.listing import GivenSource
from embrasure.wire import door_pb2, door_pb2_grpc
from node.answering import Deaf, converse
from node.config import NodeConfig
from node.ipc import Channel
from node.messages import FromApply, TrustAsk, TrustNote

Connect = Callable[[], Channel[FromApply]]
# On the push listener: a gateway that is believed brings them where it brings orders.
TABLE: Table = {"/embrasure.v1.Door/Put": frozenset({"gateway"})}


class Doorway:
    """The door's listener. It is made in the running event loop."""

    def __init__(self, connect: Connect, pair: Pair, roots: list[x509.Certificate]) -> None:
        self._connect, self._roots = connect, roots
        self._pair = pair

    async def open(self, config: NodeConfig) -> int:
        """Return the port where trust files are taken; raises Failed (`bind`)."""
        self.keys = DoorKeys(self._pair, self.roots, domain=config.domain)
        self._server = door_server(self.take, self.roots, domain=config.domain)
        port = bind(self._server, config.door, self.keys)
        await self._server.start()
        return port

    def service(self) -> Service:
        """Return the same door for the push listener, behind that listener's own checks."""
        descriptor = door_pb2.DESCRIPTOR.services_by_name["Door"]
        return Service(descriptor, door_pb2_grpc.add_DoorServicer_to_server, DoorService(self.take))

    async def close(self) -> None:
        """Nothing is taken any more."""
        await self._server.stop(1.0)

    def swap(self, pair: Pair, roots: list[x509.Certificate]) -> None:
        """New connections see `pair`; clients below `roots` come in."""
        self.keys.swap(pair)
        self._roots = roots

    def roots(self) -> list[x509.Certificate]:
        """Return the CA roots, out of memory: asked at every handshake."""
        return self._roots

    def take(self, files: Mapping[str, bytes]) -> Outcome:
        """Return what apply made of `files`; raises what it ended with."""
        with self._connect() as channel:
            found = converse(channel, TrustAsk(), GivenSource(files), Deaf()).trusted
        if found is None:
            raise Failed("apply", expected="a word on the trust files", got="none")
        return outcome_of(found)


def outcome_of(note: TrustNote) -> Outcome:
    """Return what a peer is told of apply's word."""
    return Outcome(dict(note.taken), note.missing, dict(note.refused))
