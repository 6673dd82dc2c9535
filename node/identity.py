"""The node's own keys: made here, never leave here, and sign for nobody else.

TLS P-256 (push listener), receipt Ed25519, seal ML-KEM-768 and X25519 (secrets). The statement
carries the public halves to the security team. The TLS key is fetch's and no part of an `Identity`;
nor is the seal key: only `load_seal_key` reads it, and only the apply process calls that.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey
from securesystemslib.signer import CryptoSigner, SSlibKey

from embrasure import limits
from embrasure.aside import set_aside
from embrasure.clock import Clock, write_time
from embrasure.errors import Damaged, Misuse, NotFound, Refused
from embrasure.fs import Folder, read_file
from embrasure.net.identity import dns_name, uri
from embrasure.secret.keys import OpeningKey
from embrasure.trust import dsse
from embrasure.trust.directory import ReceiptKey, SealKey, Statement
from embrasure.trust.documents import read, write
from embrasure.trust.floors import Floors, FloorStore
from embrasure.trust.receipt import key_id, node_id
from node import halfmade, keycopy
from node.keycopy import Card as Card
from node.keycopy import KeyCopy
from node.paths import Paths


@dataclass(frozen=True, slots=True)
class Identity:
    """A node with its key for receipts. key: None when it is lost, so that it can only serve;
    boot_cert: where its first certificate is, None for pull; the key of that certificate is the
    network side's alone.
    """

    card: Card
    key: SigningKey | None
    boot_cert: Path | None

    @property
    def receipt_key(self) -> SigningKey:
        """The key that signs receipts; raises Damaged (`no-key`) when it is lost."""
        if self.key is None:
            raise Damaged("receipt key", expected="the key as it was made", got="none",
                          untouched="what runs keeps running", reason="no-key",
                          hint="put it back from a backup; or make the node anew with the next "
                               "epoch: embrasure node init --id NODE --epoch N")  # fmt: skip
        return self.key

    @property
    def boot_cert_pem(self) -> bytes:
        """The certificate it showed before enrolment, PEM; empty for pull.

        Read when it is asked for: losing it must not keep a node from booting. Raises NotFound,
        Denied.
        """
        if self.boot_cert is None:
            return b""
        return read_file(self.boot_cert, limit=limits.KEYFILE_BYTES, unshared=True)

    @property
    def node(self) -> str:
        """The node's id."""
        return self.card.node

    @property
    def env(self) -> str:
        """The environment it belongs to."""
        return self.card.env

    @property
    def mode(self) -> Literal["push", "pull"]:
        """Whether the gateway dials it or it asks a mirror."""
        return self.card.mode

    @property
    def domain(self) -> str:
        """The TLS trust domain."""
        return self.card.domain

    @property
    def root_id(self) -> str:
        """The fleet, by the hash of its first root."""
        return self.card.root

    @property
    def epoch(self) -> int:
        """Rises when the node is made anew; orders and receipts of another epoch are void."""
        return self.card.epoch

    @property
    def receipt_public(self) -> str:
        """The raw public receipt key, 64 hex digits, as plans and the directory name it."""
        return bytes(self.receipt_key.verify_key).hex()

    @property
    def receipt_id(self) -> str:
        """The id of the receipt key, as denials and the letterbox name it."""
        return key_id(bytes(self.receipt_key.verify_key))

    def signer(self) -> CryptoSigner:
        """Return the receipt key as a signer of typed statements (DSSE)."""
        public = SSlibKey(self.receipt_id, "ed25519", "ed25519", {"public": self.receipt_public})
        return CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes(self.receipt_key)), public)


def new_node_id() -> str:
    """Return a random node id; ids are never used twice."""
    return node_id(secrets.token_bytes(16))


def create_identity(
    paths: Paths,
    *,
    node: str,
    env: str,
    mode: Literal["push", "pull"],
    domain: str,
    root_id: str,
    clock: Clock,
    epoch: int = 1,
) -> bytes:
    """Return the enrolment statement (DSSE envelope) of a node whose keys are on disk from now on.

    What an earlier run left that was killed before its keys were whole is made anew: nobody has
    seen it. Raises Misuse (`exists`) when this node has keys: they are never overwritten.
    """
    card = Card(
        v=1,
        type="identity",
        root=root_id,
        node=node,
        env=env,
        mode=mode,
        domain=domain,
        epoch=epoch,
    )
    halfmade.clear(paths)
    FloorStore(paths.floors).create(Floors.first(epoch=card.epoch))
    with Folder.open(paths.keys, create=True, mode=0o700) as folder:
        if mode == "push":
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = _boot_certificate(key, node=node, domain=domain, at=clock())
            with Folder.open(paths.tls, create=True) as own:
                own.create(paths.tls_key.name, _pem(key))
            with Folder.open(paths.state, create=True) as state:
                state.create(paths.boot_cert.name, certificate, mode=0o644)
        seal = OpeningKey.generate()
        folder.create(paths.seal_key.name, seal.raw.hex().encode())
        folder.create(paths.receipt_key.name, bytes(SigningKey.generate()).hex().encode())
        # Last: a node that was cut off before has no identity, and is made again.
        folder.create(paths.identity.name, write(card))
    keycopy.keep(paths, key_copy(paths))
    return statement(load_identity(paths), seal.public(epoch=card.epoch), clock=clock)


def statement(identity: Identity, hpke: SealKey, *, clock: Clock) -> bytes:
    """Return what the node says of itself, signed by its receipt key. hpke: its seal key."""
    der = None
    if identity.boot_cert_pem:
        certificate = x509.load_pem_x509_certificate(identity.boot_cert_pem)
        der = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
    said = Statement(
        v=1,
        type="enrolment",
        root=identity.root_id,
        env=identity.env,
        node=identity.node,
        mode=identity.mode,
        epoch=identity.epoch,
        receipt=ReceiptKey(key=identity.receipt_public, epoch=identity.epoch),
        hpke=hpke,
        boot_cert=der,
        at=write_time(clock()),
    )
    return dsse.seal("enrolment", write(said), identity.signer())


def load_identity(paths: Paths) -> Identity:
    """Return this node's identity, from the copy of its keys where a file is not as it was made.

    Raises Misuse when there is none, Damaged and Refused for damage, Denied for open files.
    """
    found = _copied(paths, lambda: key_copy(paths, seal=False))
    key = SigningKey(bytes.fromhex(found.receipt))
    return Identity(found.card, key, paths.boot_cert if found.card.mode == "push" else None)


def key_copy(paths: Paths, *, seal: bool = True) -> KeyCopy:
    """Return the keys as their own files have them; raises Misuse, Damaged, Refused, Denied.

    seal: with the key for secrets
    """
    if not paths.identity.exists():
        raise Misuse(
            str(paths.prefix), expected="a node", got="no identity", hint="embrasure node init"
        )
    card = read(
        _private(paths, paths.identity.name), Card, limit=limits.CARD_BYTES, document="identity"
    )
    raw = _private(paths, paths.receipt_key.name)
    try:
        receipt = bytes(SigningKey(bytes.fromhex(raw.decode())))
    except (ValueError, CryptoError) as problem:
        raise Damaged(
            str(paths.keys), expected="keys as they were made", got=problem,
            hint="put them back from a backup; or embrasure node init --id NODE --epoch N",
        ) from None  # fmt: skip
    opening = _seal_key(paths).raw.hex() if seal else ""
    return KeyCopy(v=1, type="keys", card=card, receipt=receipt.hex(), seal=opening)


def _copied(paths: Paths, load: Callable[[], KeyCopy]) -> KeyCopy:
    """Return the copy, if it is whole: it alone has a hash of its own. Else what `load` gives.

    A key file that others can read is no damage: raises Denied, whatever the copy says.
    """
    copy = keycopy.load(paths)
    try:
        found = load()
    except (Misuse, Refused, Damaged, NotFound):
        if copy is None:
            raise
        return copy
    return copy or found


def mend_keys(paths: Paths) -> list[str]:
    """Return the files that were not as they were made, and are again; for apply's start alone.

    Raises what `load_identity` raises.
    """
    whole = _copied(paths, lambda: key_copy(paths))
    keycopy.keep(paths, whole)
    wanted = {
        paths.seal_key.name: whole.seal.encode(),
        paths.receipt_key.name: whole.receipt.encode(),
        paths.identity.name: write(whole.card),
    }
    mended = []
    with Folder.open(paths.keys) as folder:
        for name, raw in wanted.items():
            if _is(paths, name, raw):
                continue
            set_aside(folder, name)
            folder.replace(name, raw)
            mended.append(name)
    return mended


def _is(paths: Paths, name: str, raw: bytes) -> bool:
    try:
        return _private(paths, name) == raw
    except (Refused, NotFound):
        return False


def load_tls_key(paths: Paths) -> bytes:
    """Return the first key of the push listener, PEM; raises Denied. Only fetch asks for it."""
    return read_file(paths.tls_key, limit=limits.KEYFILE_BYTES, private=True)


def load_seal_key(paths: Paths) -> OpeningKey:
    """Return the key that secrets for this node are sealed to; raises Damaged, Denied.

    Read when it is needed and held no longer. Nodes made before the hybrid suite have an X25519
    key, and keep it until they are made anew.
    """
    copy = keycopy.load(paths)
    try:
        found = _seal_key(paths)
    except (Refused, Damaged, NotFound):
        if copy is None:
            raise
        return OpeningKey.from_hex(copy.seal)
    return found if copy is None else OpeningKey.from_hex(copy.seal)


def _seal_key(paths: Paths) -> OpeningKey:
    raw = _private(paths, paths.seal_key.name)
    try:
        return OpeningKey.from_hex(raw.decode("ascii"))
    except ValueError:
        raise Damaged(
            str(paths.seal_key),
            expected="the key as it was made",
            got="other bytes",
            hint="put it back from a backup; or embrasure node init --id NODE --epoch N",
        ) from None


def _private(paths: Paths, name: str) -> bytes:
    return read_file(paths.keys / name, limit=limits.KEYFILE_BYTES, private=True)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _boot_certificate(
    key: ec.EllipticCurvePrivateKey, *, node: str, domain: str, at: datetime
) -> bytes:
    """Return a self-signed certificate with the final names: it carries the key to enrolment."""
    name = x509.Name([])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    names = x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(uri("node", node, domain)),
            x509.DNSName(dns_name("node", node, domain)),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - timedelta(seconds=limits.BACKDATE_SECONDS))
        .not_valid_after(at + timedelta(seconds=limits.BOOT_LEAF_SECONDS))
        .add_extension(names, critical=True)
        .add_extension(usage, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)
