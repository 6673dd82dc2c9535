"""The log-in port of a running gateway, and whoever comes to it: an operator, or a thief."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import Signer

from embrasure.clock import now
from embrasure.errors import Denied, EmbrasureError
from embrasure.net.certificates import load_certificates, pem_of
from embrasure.net.credentials import pinned_channel
from embrasure.net.seen import seen_leaf
from embrasure.net.status import error_of
from embrasure.net.trustbundle import first_trust
from embrasure.trust import dsse
from embrasure.wire import login_pb2
from embrasure.wire.login_pb2_grpc import LoginStub
from gateway.logging_in import statement_of
from pki.folder import TrustFolder
from pki.passphrase import PassphraseSource
from pki.signers import open_signer
from tests.simulate.office import PASSPHRASE, Answer, Office, Running, verb

HOST = "admin.office.test.internal"


@dataclass
class Door:
    """A running gateway's log-in port, and the fleet around it."""

    office: Office
    running: Running
    port: int

    @property
    def address(self) -> str:
        """Where it is dialled."""
        return f"127.0.0.1:{self.port}"

    def context(self, person: str, port: int = 0) -> Path:
        """Return a context of `person` without any certificate yet."""
        folder = self.office.folder / person
        self.office.pki(
            "pki", "issue", f"operator/{person}", self.office.trust, "--out", folder,
            "--gateway", f"127.0.0.1:{self.running.port}",
            "--login", f"127.0.0.1:{port or self.port}",
            "--key", f"keyfile:{self.office.trust}/keys/{person}.key",
        )  # fmt: skip
        for name in ("tls.key", "tls.crt"):
            (folder / name).unlink()
        return folder

    def login(self, person: str) -> Answer:
        """Return how `login` of the person ended."""
        return self.office.verb("login", person=person, signs=True)

    def signer(self, name: str) -> Signer:
        """Return the opened key of the person."""
        source = PassphraseSource(lambda _: PASSPHRASE.encode(), tries=1)
        return open_signer(f"keyfile:{self.office.trust}/keys/{name}.key", source)

    def server(self) -> x509.Certificate:
        """Return the leaf that the gateway shows."""
        trust = first_trust(
            "office.test",
            "admin",
            load_certificates((self.office.trust / "ca" / "admin.crt").read_bytes(), what="ca"),
        )
        return seen_leaf(self.address, "gateway-admin", trust)

    def envelope(
        self, nonce: bytes, csr: bytes, *, by: Signer, person: str = "anna",
        server: x509.Certificate | None = None,
    ) -> bytes:  # fmt: skip
        """Return what somebody signs who wants a certificate for `csr`."""
        said = statement_of(
            root=TrustFolder.open(self.office.trust).root_id, person=person, nonce=nonce, csr=csr,
            server=server or self.server(), clock=now,
        )  # fmt: skip
        return dsse.seal("login", said, by)

    def challenge(self) -> bytes:
        """Return a nonce of the gateway; raises its refusal."""
        nonce: bytes = self._call("Challenge", login_pb2.ChallengeRequest()).nonce
        return nonce

    def certificate(self, envelope: bytes, csr: bytes) -> list[x509.Certificate]:
        """Return the chain that the gateway gives for these bytes; raises its refusal."""
        request = login_pb2.CertificateRequest(statement=envelope, csr=csr)
        return x509.load_pem_x509_certificates(self._call("Certificate", request).chain)

    def _call(self, method: str, request: object) -> Any:
        async def run() -> Any:
            channel = pinned_channel(self.address, leaf=pem_of(self.server()), host=HOST)
            async with channel:
                try:
                    return await getattr(LoginStub(channel), method)(request, timeout=10)
                except grpc.RpcError as problem:
                    return error_of(problem, thing="login")

        # Returned, not raised: what leaves a loop as an exception keeps its connection open until
        # the garbage is collected, and a hundred of them are more than the port takes at once.
        found = asyncio.run(run())
        if isinstance(found, EmbrasureError):
            raise found
        return found


def with_log_in(folder: Path) -> Office:
    """Return an office of one node whose gateway has a log-in port."""
    made = Office.make(folder, nodes=1)
    done = verb("gateway", "init", made.gateway_folder, "--trust", made.trust, "--login",
                "127.0.0.1:0")  # fmt: skip
    assert done.code == 0, done.told
    return made


@contextmanager
def log_in_door(office: Office) -> Iterator[Door]:
    """The gateway of `office` runs, and lets people log in."""
    with office.gateway() as running:
        ports = json.loads((office.gateway_folder / "ports.json").read_text())
        yield Door(office, running, ports["login"])


def key() -> ec.EllipticCurvePrivateKey:
    """Return a new TLS key."""
    return ec.generate_private_key(ec.SECP256R1())


def refused(door: Door, envelope: bytes, csr: bytes) -> None:
    """It is refused, and the answer says nothing else."""
    with pytest.raises(Denied) as problem:
        door.certificate(envelope, csr)
    assert problem.value.got == "denied"
