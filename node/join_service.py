"""`embrasure.v1.Joining`: what the network side of a new node passes on, for gateways only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from embrasure import limits
from embrasure.errors import Denied, Failed, Refused
from embrasure.net.identity import Role
from embrasure.net.server import Service
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
        self._paths, self._connect = paths, connect

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
        self, request: joining_pb2.AnswerAsk, context: Context
    ) -> joining_pb2.AnswerReply:
        """Take the security team's answer."""
        if len(request.answer) > limits.ANSWER_BYTES:
            raise Refused("enrolment answer", expected=f"{limits.ANSWER_BYTES} bytes", got="more",
                          reason="limit")  # fmt: skip
        await asyncio.to_thread(self._ask, EnrolAsk(answer=pack(request.answer)))
        return joining_pb2.AnswerReply(node="taken")

    def _statement(self) -> joining_pb2.StatementReply:
        check_not_enrolled(self._paths)
        mac = read_mac(self._paths)
        if not mac:
            raise Denied("node", expected="a join token", got="none was given to this node",
                         reason="no-token")  # fmt: skip
        return joining_pb2.StatementReply(statement=read_statement(self._paths), mac=mac)

    def _ask(self, ask: ProveAsk | EnrolAsk) -> Heard:
        with self._connect() as channel:
            return converse(channel, ask, NoSource(), Deaf())


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
