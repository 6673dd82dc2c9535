"""A thief of the gateway at the address of a machine that joins: he answers first, with his CA."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from embrasure.clock import now, write_time
from embrasure.errors import EmbrasureError
from embrasure.net.credentials import channel
from embrasure.net.status import error_of
from embrasure.trust import dsse
from embrasure.trust.directory import Enrolled, Floors, TlsBundle
from embrasure.trust.documents import write
from embrasure.wire import joining_pb2, joining_pb2_grpc
from node.identity import load_identity, load_tls_key
from node.paths import Paths
from tests.simulate.authority import Authority, der_text
from tests.simulate.running import until

# Apply with one guard taken out, in a process of its own, as `node run` would start it.
_UNGUARDED = """
import sys
from pathlib import Path
import node.judge
from node.apply_main import alone
from node.material import read_enrolled
from node.paths import Paths
node.judge.verified_answer = lambda raw, source, **_: read_enrolled(raw)
sys.exit(alone(Paths(Path(sys.argv[1])), None))
"""
_FETCH = (
    "import sys; from pathlib import Path; from node import agent; from node.paths import Paths; "
    "sys.exit(agent.alone(Paths(Path(sys.argv[1])), None))"
)


class JoinThief:
    """Has the gateway's own TLS key, an authority and a signing key of his own."""

    def __init__(self, key: bytes | ec.EllipticCurvePrivateKey, chain: bytes, domain: str) -> None:
        self._key, self._chain = key, chain
        self.authority = Authority(domain)
        self._signer = CryptoSigner.generate_ed25519()

    def false_answer(self, paths: Paths) -> bytes:
        """Return an answer to the statement of the node in `paths`, by nobody of its fleet."""
        identity = load_identity(paths)
        key = load_pem_private_key(load_tls_key(paths), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        leaf = self.authority.leaf("node", identity.node, key=key)
        members: dict[str, Any] = {
            **self.authority.tls_members(), "v": 1, "type": "tls", "root": identity.root_id,
            "env": identity.env, "gateways": ("thief",),
        }  # fmt: skip
        issuer = self.authority.issuers["node"].certificate
        said = Enrolled(
            v=1, type="enrolled", root=identity.root_id, env=identity.env, node=identity.node,
            epoch=identity.epoch, tls=TlsBundle(**members),
            floors=Floors(root=1, targets=1, fleet=1, revocations=0, seq={},
                          time=write_time(now())),
            chain=(der_text(leaf.certificate), der_text(issuer)),
        )  # fmt: skip
        return dsse.seal("enrolled", write(said), self._signer)

    def answers(self, paths: Paths, port: int, answer: bytes, files: Mapping[str, bytes]) -> str:
        """Return how the node took it: "" when it did, else its word."""
        identity = load_identity(paths)

        async def call() -> None:
            async def parts() -> AsyncIterator[joining_pb2.AnswerPart]:
                yield joining_pb2.AnswerPart(body=answer)
                for path, raw in files.items():
                    yield joining_pb2.AnswerPart(path=path, body=raw)

            line = channel(
                f"127.0.0.1:{port}", role="node", name=identity.node, domain=identity.domain,
                issuer_pems=identity.boot_cert_pem, key=self._key, chain_pem=self._chain,
            )  # fmt: skip
            async with line:
                stub: Any = joining_pb2_grpc.JoiningStub(line)
                await stub.Answer(parts(), timeout=20)

        try:
            asyncio.run(call())
        except grpc.aio.AioRpcError as problem:
            return error_of(problem, thing="node").reason
        except EmbrasureError as problem:
            return problem.reason
        return ""


@contextmanager
def unguarded(paths: Paths) -> Iterator[None]:
    """The node runs as two processes; its apply believes every answer unverified."""
    ports = paths.run / "ports.json"
    ports.unlink(missing_ok=True)
    with Path(f"{paths.prefix}.log").open("ab") as log:
        both = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(paths.prefix)], stdout=log, stderr=log
            )
            for code in (_UNGUARDED, _FETCH)
        ]
        try:
            until(ports.exists, what="the unguarded node")
            yield
        finally:
            for one in both:
                one.terminate()
            for one in both:
                one.wait(20)
