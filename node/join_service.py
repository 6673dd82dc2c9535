"""`embrasure.v1.Joining`: what the network side of a new node passes on, for gateways only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from embrasure import limits
from embrasure.errors import Denied, Failed, Refused, Unavailable
from embrasure.net.door import Quota, read_files
from embrasure.net.identity import Role
from embrasure.net.server import Service
from embrasure.net.source import source_of
from embrasure.trust.listing import GivenSource
from embrasure.trust.source import Source
from embrasure.wire import joining_pb2, joining_pb2_grpc
from node.answering import Deaf, Heard, NoSource, converse
from node.ipc import Channel
from node.join_files import check_not_enrolled, read_mac, read_statement
from node.messages import EnrolAsk, FromApply, ProveAsk, pack, unpack
from node.paths import Paths

if TYPE_CHECKING:
    from embrasure.net.authorize import Context

TABLE: dict[str, frozenset[Role]] = {
    "/embrasure.v1.Joining/Statement": frozenset({"gateway"}),
    "/embrasure.v1.Joining/Prove": frozenset({"gateway"}),
    "/embrasure.v1.Joining/Answer": frozenset({"gateway"}),
}
Connect = Callable[[], Channel[FromApply]]


class JoiningService:
    """Reads what is public here, and asks apply for the rest."""

    def __init__(self, paths: Paths, connect: Connect) -> None:
        self._paths, self._connect, self._quota = paths, connect, Quota()

    async def Statement(
        self, request: joining_pb2.StatementAsk, context: Context
    ) -> joining_pb2.StatementReply:
        """Answer with the statement and the MAC over it."""
        return await asyncio.to_thread(self._statement)

    async def Prove(
        self, request: joining_pb2.ProveAsk, context: Context
    ) -> joining_pb2.ProveReply:
        """Answer with the proof that the keys of the statement are here."""
        if len(request.challenge) > limits.CHALLENGE_BYTES:
            raise Refused("challenge", expected=f"{limits.CHALLENGE_BYTES} bytes", got="more",
                          reason="limit")  # fmt: skip
        ask = ProveAsk(challenge=pack(request.challenge), gateway=certificate_of(context))
        heard = await asyncio.to_thread(self._ask, ask)
        if not heard.proof:
            raise Failed("node", expected="a proof", got="none")
        return joining_pb2.ProveReply(proof=unpack(heard.proof))

    async def Answer(
        self, requests: AsyncIterator[joining_pb2.AnswerPart], context: Context
    ) -> joining_pb2.AnswerReply:
        """Take the security team's answer, if the trust files beside it vouch for it."""
        with self._quota.entered(source_of(context.peer())):
            try:
                async with asyncio.timeout(limits.DOOR_SECONDS):
                    answer, files = await read_answer(requests)
            except TimeoutError:
                raise Unavailable("enrolment answer", expected="all of it in time", got="less",
                                  reason="slow") from None  # fmt: skip
            ask = EnrolAsk(answer=pack(answer))
            await asyncio.to_thread(self._ask, ask, GivenSource(files))
        return joining_pb2.AnswerReply(node="taken")

    def _statement(self) -> joining_pb2.StatementReply:
        check_not_enrolled(self._paths)
        mac = read_mac(self._paths)
        if not mac:
            raise Denied("node", expected="a join token", got="none was given to this node",
                         hint="embrasure node token --token-file FILE",
                         reason="no-token")  # fmt: skip
        return joining_pb2.StatementReply(statement=read_statement(self._paths), mac=mac)

    def _ask(self, ask: ProveAsk | EnrolAsk, source: Source | None = None) -> Heard:
        with self._connect() as channel:
            return converse(channel, ask, source or NoSource(), Deaf())


async def read_answer(
    requests: AsyncIterator[joining_pb2.AnswerPart],
) -> tuple[bytes, dict[str, bytes]]:
    """Return the answer and the trust files that came with it; raises Refused (`limit`, ...)."""
    first = await anext(requests, None)
    if first is None or first.path:
        raise Refused("enrolment answer", expected="the answer first", got="else",
                      reason="bad-schema")  # fmt: skip
    if len(first.body) > limits.ANSWER_BYTES:
        raise Refused("enrolment answer", expected=f"{limits.ANSWER_BYTES} bytes", got="more",
                      reason="limit")  # fmt: skip
    return first.body, await read_files(requests)


def certificate_of(context: Context) -> str:
    """Return the SHA-256 of the certificate that the caller showed in this connection."""
    (pem,) = context.auth_context()["x509_pem_cert"]
    return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex()


def joining_service(paths: Paths, connect: Connect) -> Service:
    """Return the service as a listener serves it."""
    return Service(
        joining_pb2.DESCRIPTOR.services_by_name["Joining"],
        joining_pb2_grpc.add_JoiningServicer_to_server,
        JoiningService(paths, connect),
    )
