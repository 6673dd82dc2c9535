"""A security team in memory: a trust folder held by real key files, and nodes that ask to join."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from securesystemslib.signer import CryptoSigner, SSlibKey

from embrasure.clock import Clock, write_time
from embrasure.net.identity import dns_name, uri
from embrasure.secret.keys import OpeningKey
from embrasure.trust import dsse
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.directory import ReceiptKey, Statement
from embrasure.trust.documents import write
from pki import ceremony, environment, keyfile, signers, signing
from pki.drafts import Draft
from pki.folder import TrustFolder
from pki.passphrase import PassphraseSource

PASSPHRASE = b"correct horse battery"
DOMAIN = "example.org"
COSTS = ceremony.Costs(offline=keyfile.MODERATE, online=keyfile.MODERATE)
HOLDERS = ("alice", "bob", "carl")


def source() -> PassphraseSource:
    """Return a source that knows the one passphrase."""
    return PassphraseSource(lambda _: PASSPHRASE, tries=1)


def hold(path: Path, clock: Clock, *, threshold: int = 2) -> TrustFolder:
    """Return a new trust folder whose first roles are in force."""
    return ceremony.hold(
        path,
        domain=DOMAIN,
        holders=ceremony.keyholders(HOLDERS, threshold=threshold, generate=True),
        passphrase=PASSPHRASE,
        costs=COSTS,
        clock=clock,
    )


def add_environment(trust: TrustFolder, env: str, clock: Clock) -> list[Draft]:
    """Return the drafts of a new environment."""
    return environment.add_environment(
        trust,
        env,
        gateways=("g1",),
        shards=1,
        min_isolation=0,
        source=source(),
        cost=keyfile.MODERATE,
        clock=clock,
    )


def opened(trust: TrustFolder, name: str) -> keyfile.OpenedFile:
    """Return a keyholder's key."""
    return signers.open_file(f"keyfile:{trust.path}/keys/{name}.key", source())


def sign(trust: TrustFolder, *names: str, at: datetime) -> None:
    """Every open draft has these keyholders' signatures."""
    for name in names:
        for draft in trust.drafts():
            reviewed = signing.review(draft, pinned=trust.root_id, at=at)
            signing.sign(reviewed, opened(trust, name))


def sign_and_merge(trust: TrustFolder, *names: str, at: datetime) -> None:
    """Every open draft is signed by these keyholders and in force."""
    sign(trust, *names, at=at)
    _, waiting = signing.merge_ready(trust, at=at)
    if waiting:
        raise ValueError(waiting)


@dataclass(slots=True)
class NewNode:
    """A node that has keys and is not yet enrolled."""

    root: str
    number: int
    env: str = "prod"
    mode: Literal["push", "pull"] = "push"
    epoch: int = 1
    receipt: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    tls: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    seal: OpeningKey = field(default_factory=lambda: OpeningKey.generate())
    domain: str = DOMAIN
    made: list[x509.Certificate] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The node's id."""
        letters = "abcdefghijklmnopqrstuvwxyz234567"
        return "n-" + "a" * 24 + letters[self.number // 32] + letters[self.number % 32]

    @property
    def receipt_public(self) -> str:
        """The raw receipt key, 64 hex digits."""
        return str(self.receipt.public_key.keyval["public"])

    def statement(self, at: datetime) -> Statement:
        """Return what the node says of itself."""
        if self.mode == "push" and not self.made:
            self.made.append(self.boot(at))
        boot = self.made[0].public_bytes(Encoding.DER) if self.made else None
        return Statement(
            v=1,
            type="enrolment",
            root=self.root,
            env=self.env,
            node=self.id,
            mode=self.mode,
            epoch=self.epoch,
            receipt=ReceiptKey(key=self.receipt_public, epoch=self.epoch),
            hpke=self.seal.public(epoch=self.epoch),
            boot_cert=None if boot is None else base64.b64encode(boot).decode(),
            at=write_time(at),
        )

    def envelope(self, at: datetime, *, said: Statement | None = None) -> bytes:
        """Return the statement as the node signs it."""
        return dsse.seal("enrolment", write(said or self.statement(at)), self.signer)

    @property
    def signer(self) -> CryptoSigner:
        """The receipt key, under its id in plans."""
        keyid = sha256_hex(bytes.fromhex(self.receipt_public))
        public = SSlibKey(keyid, "ed25519", "ed25519", {"public": self.receipt_public})
        return CryptoSigner(self.receipt._private_key, public)

    def boot(
        self, at: datetime, *, names: list[x509.GeneralName] | None = None
    ) -> x509.Certificate:
        """Return the self-signed boot certificate."""
        found = names or list(self.names())
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(x509.Name([]))
            .public_key(self.tls.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(at)
            .not_valid_after(at + timedelta(days=3650))
            .add_extension(x509.SubjectAlternativeName(found), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
            .sign(self.tls, hashes.SHA256())
        )

    def names(self) -> Iterator[x509.GeneralName]:
        """Yield the names of a node's certificates."""
        yield x509.UniformResourceIdentifier(uri("node", self.id, self.domain))
        yield x509.DNSName(dns_name("node", self.id, self.domain))
