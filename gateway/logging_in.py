"""The operator's side of a log-in: see who is there, sign for that one, keep what it answers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import grpc
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import Signer

from embrasure import fs, limits
from embrasure.clock import Clock, write_time
from embrasure.errors import Misuse, Refused
from embrasure.fs import Folder
from embrasure.net.certificates import check_pair, load_certificates, pem_of
from embrasure.net.credentials import pinned_channel
from embrasure.net.identity import dns_name
from embrasure.net.profile import check_leaf
from embrasure.net.seen import seen_leaf
from embrasure.net.status import error_of
from embrasure.net.trustbundle import first_trust
from embrasure.trust import dsse
from embrasure.trust.anchor import root_id_of
from embrasure.trust.documents import write
from embrasure.trust.login import LoginStatement
from embrasure.wire import login_pb2 as wire
from embrasure.wire.login_pb2_grpc import LoginStub
from gateway.context import OperatorContext, read_context
from pki import contextfile
from pki.leaf import private_pem
from pki.passphrase import PassphraseSource
from pki.signers import named, open_signer

_CALL_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A new certificate, in its place."""

    identity: str
    serial: str
    until: datetime
    signed_by: str

    def as_json(self) -> dict[str, object]:
        """Return what `--json` shows."""
        return {
            "identity": self.identity,
            "serial": self.serial,
            "not_after": write_time(self.until),
            "signed_by": self.signed_by,
        }


def log_in(context: OperatorContext, source: PassphraseSource, *, clock: Clock) -> LoggedIn:
    """The context has a new TLS key and certificate; raises Refused, Denied, Unavailable.

    Steps: 1 see the server and check whose it is, 2 open the signing key, 3 ask for a nonce on a
    connection pinned to that very server, 4 sign for it alone, 5 check the answer, 6 keep it.
    """
    if not context.file.login:
        raise Misuse(
            "context", expected="`login`, the gateway's log-in address", got="none",
            hint=f"--at HOST:PORT, or login = \"HOST:PORT\" in {context.folder}/context.toml",
        )  # fmt: skip
    # 1. Nobody else gets a signature, nor learns that a person is there.
    issuers = load_certificates(context.admin_issuer(), what="admin issuer")
    trust = first_trust(context.domain, "admin", issuers)
    server = seen_leaf(context.file.login, "gateway-admin", trust, clock=clock)
    # 2. Before the nonce: a person takes longer to type than a nonce lives.
    root = root_id_of(context.anchor())
    uri = named(context.file.key, context.folder)
    signer = open_signer(uri, source, purpose="operator", root=root)
    key = ec.generate_private_key(ec.SECP256R1())
    csr = request_of(key)
    # 3. and 4.
    chain = asyncio.run(_ask(context, server, signer, csr, root=root, clock=clock))
    # 5.
    leaf = check_answer(chain, key, context, clock=clock)
    # 6. The key first: a key without its certificate is said so, and logging in again mends it.
    fs.replace_file(context.folder, context.file.tls_key, private_pem(key))
    fs.replace_file(context.folder, context.file.tls_cert, chain, mode=0o644)
    return LoggedIn(
        f"operator/{context.person}",
        f"{leaf.serial_number:x}",
        leaf.not_valid_after_utc,
        signer.public_key.keyid,
    )


def login_at(context: OperatorContext, address: str | None) -> OperatorContext:
    """Return the context with this log-in address, for this once; None: its own."""
    if address is None:
        return context
    return replace(context, file=msgspec.structs.replace(context.file, login=address))


def check_unsaid(
    wish: Mapping[str, str | None], anchor: Path | None, admin_issuer: Path | None
) -> None:
    """Return only when nothing is said that a context file says already; raises Misuse.

    Who types another `--key` or `--anchor` must not find his old one used in silence.
    """
    said = {**wish, "anchor": anchor, "admin-issuer": admin_issuer}
    found = [f"--{name}" for name, value in said.items() if value is not None]
    if found:
        raise Misuse(
            "login", expected="these from the context file", got=", ".join(found),
            hint="--out DIR makes a new operator folder of them",
        )  # fmt: skip


def new_folder(
    out: Path, *, anchor: Path | None, admin_issuer: Path | None, wish: Mapping[str, str | None]
) -> OperatorContext:
    """Return the context of a new operator folder; raises Misuse when something is not said.

    wish: person, key, domain, gateway, at
    """
    missing = [f"--{name}" for name, value in wish.items() if not value]
    if anchor is None or admin_issuer is None or missing:
        missing += ["--anchor"] * (anchor is None) + ["--admin-issuer"] * (admin_issuer is None)
        raise Misuse("login --out", expected=", ".join(missing), got="nothing")
    said = {name: value or "" for name, value in wish.items()}
    if (out / "context.toml").exists():
        raise Misuse(
            str(out), expected="a new folder", got="one with a context",
            hint=f"embrasure login --context {out}",
        )  # fmt: skip
    root = fs.read_file(anchor, limit=limits.ROOT_BYTES)
    issuer = fs.read_file(admin_issuer, limit=limits.TLS_BUNDLE_BYTES)
    root_id_of(root)
    load_certificates(issuer, what="admin issuer")
    Folder.open(out, create=True, mode=0o700).close()
    contextfile.write_files(out, anchor=root, admin=issuer)
    login = said.pop("at")
    contextfile.write_context(out, contextfile.Wish(**said, login=login))
    return read_context(out)


def request_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a request that names nothing: names come from the signature alone."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def statement_of(
    *, root: str, person: str, nonce: bytes, csr: bytes, server: x509.Certificate, clock: Clock
) -> bytes:
    """Return the bytes that are signed."""
    return write(
        LoginStatement(
            v=1,
            type="login",
            root=root,
            person=person,
            nonce=nonce.hex(),
            csr=hashlib.sha256(csr).hexdigest(),
            admin=server.fingerprint(hashes.SHA256()).hex(),
            at=write_time(clock()),
        )
    )


async def _ask(
    context: OperatorContext,
    server: x509.Certificate,
    signer: Signer,
    csr: bytes,
    *,
    root: str,
    clock: Clock,
) -> bytes:
    host = dns_name("gateway-admin", "gateway", context.domain)
    channel = pinned_channel(context.file.login, leaf=pem_of(server), host=host)
    try:
        stub = LoginStub(channel)
        asked = await stub.Challenge(wire.ChallengeRequest(), timeout=_CALL_SECONDS)
        if len(asked.nonce) != 32:
            raise Refused("gateway", expected="a nonce of 32 bytes", got=len(asked.nonce))
        said = statement_of(
            root=root, person=context.person, nonce=asked.nonce, csr=csr, server=server, clock=clock
        )
        request = wire.CertificateRequest(statement=dsse.seal("login", said, signer), csr=csr)
        answer = await stub.Certificate(request, timeout=_CALL_SECONDS)
        return bytes(answer.chain)
    except grpc.RpcError as problem:
        raise error_of(problem, thing=f"log-in at {context.file.login}") from None
    finally:
        await channel.close()


def check_answer(
    chain: bytes, key: ec.EllipticCurvePrivateKey, context: OperatorContext, *, clock: Clock
) -> x509.Certificate:
    """Return the leaf of `chain`: ours by key and name, of the issuer beside it; raises Refused."""
    leaf, *above = load_certificates(chain, what="the gateway's answer")
    check_pair(private_pem(key), chain, what="log-in")
    found = check_leaf(leaf, role="operator", issuers=above, domain=context.domain, at=clock())
    if found.name != context.person:
        raise Refused(
            "the gateway's answer", expected=f"operator/{context.person}", got=str(found),
            reason="identity",
        )  # fmt: skip
    return leaf
