"""A listener's certificate, renewed by the gateway that dials it; the key never leaves the host.

A fresh key waits in memory for its certificate. What comes back is believed only as far as it is a
certificate for that key, for this listener's own name, by an issuer of the verified `tls.json`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from logging import getLogger
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from embrasure import limits
from embrasure.clock import Clock, now
from embrasure.errors import Refused
from embrasure.net.certificates import load_certificates
from embrasure.net.credentials import Pair
from embrasure.net.identity import Identity, Role
from embrasure.net.pace import Seconds
from embrasure.net.profile import check_leaf
from embrasure.net.server import Service
from embrasure.net.trustbundle import Trust, TrustHolder
from embrasure.wire import renewal_pb2, renewal_pb2_grpc

if TYPE_CHECKING:
    from embrasure.net.authorize import Context

LOG = getLogger(__name__)
TABLE: dict[str, frozenset[Role]] = {
    "/embrasure.v1.Renewal/Csr": frozenset({"gateway"}),
    "/embrasure.v1.Renewal/Install": frozenset({"gateway"}),
}


@dataclass(frozen=True, slots=True)
class _Pending:
    """A key that waits for its certificate; made: by the steady clock."""

    key: ec.EllipticCurvePrivateKey
    request: bytes
    made: float


class Renewal:
    """One listener's renewal: at most one key waits, for `limits.PENDING_KEY_SECONDS`.

    serving: what is shown now; keep: the pair is on disk and shown from then on.
    """

    def __init__(
        self,
        identity: Identity,
        holder: TrustHolder,
        *,
        serving: Callable[[], Pair],
        keep: Callable[[Pair], None],
        clock: Clock = now,
        steady: Seconds = time.monotonic,
    ) -> None:
        self._identity, self._holder = identity, holder
        self._serving, self._keep = serving, keep
        self._clock, self._steady = clock, steady
        self._pending: _Pending | None = None
        self._lock = threading.Lock()

    def request(self) -> bytes:
        """Return a request (PEM) for a key made here; the same one while that key waits."""
        with self._lock:
            waiting = self._waiting()
            if waiting is None:
                key = ec.generate_private_key(ec.SECP256R1())
                waiting = _Pending(key, request_of(key), self._steady())
                self._pending = waiting
            return waiting.request

    def install(self, chain_pem: bytes) -> str:
        """Return the serial (hex) that is served once `chain_pem` is; raises Refused.

        What is served already is served still: asking twice is one renewal.
        """
        with self._lock:
            if chain_pem != self._serving().chain_pem:
                waiting = self._waiting()
                if waiting is None:
                    raise _refused("a request of at most 10 minutes ago", "none", "no-request")
                trust = self._holder.trust
                check_chain(chain_pem, waiting.key.public_key(), self._identity, trust=trust,
                            clock=self._clock)  # fmt: skip
                self._keep(Pair(private_pem(waiting.key), chain_pem))
                self._pending = None
                LOG.info("the certificate of %s is renewed", self._identity)
            return serial_of(self._serving())

    def _waiting(self) -> _Pending | None:
        """Return the key that waits; one that waited too long is forgotten."""
        found = self._pending
        if found and self._steady() - found.made > limits.PENDING_KEY_SECONDS:
            self._pending = found = None
        return found


def check_chain(
    chain_pem: bytes,
    public: ec.EllipticCurvePublicKey,
    identity: Identity,
    *,
    trust: Trust,
    clock: Clock,
) -> None:
    """Return only when the chain is one that this listener may show; raises Refused.

    Steps: 1 a leaf and its issuer, nothing else, 2 the leaf is for our key, 3 a whole leaf of our
    role by a trusted issuer, valid now, 4 our own name, 5 the second certificate is that issuer.
    """
    # 1.
    chain = load_certificates(chain_pem, what="renewed certificate")
    if len(chain) != 2:
        raise _refused("a leaf and its issuer", f"{len(chain)} certificates", "certificate")
    leaf, issuer = chain
    # 2.
    if leaf.public_key() != public:
        raise _refused("a certificate for the key that was asked for", "another key", "pair")
    # 3.
    issuers = trust.issuers_of(identity.role)
    found = check_leaf(leaf, role=identity.role, issuers=issuers, domain=trust.domain, at=clock())
    # 4.
    if found != identity:
        raise _refused(str(identity), str(found), "identity")
    # 5.
    if issuer not in issuers:
        raise _refused("an issuer of tls.json behind the leaf", "another", "certificate")


def request_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a request without any name: it carries the public key and the proof, nothing else."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a listener's own key as its 0600 file holds it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def serial_of(pair: Pair) -> str:
    """Return the serial number of a pair's leaf, in hex."""
    return f"{load_certificates(pair.chain_pem, what='own certificate')[0].serial_number:x}"


class RenewalService:
    """`embrasure.v1.Renewal`, for gateways only."""

    def __init__(self, renewal: Renewal) -> None:
        self._renewal = renewal

    async def Csr(self, request: renewal_pb2.CsrRequest, context: Context) -> renewal_pb2.CsrReply:
        """Answer with a request for a fresh key."""
        return renewal_pb2.CsrReply(request=await asyncio.to_thread(self._renewal.request))

    async def Install(
        self, request: renewal_pb2.InstallRequest, context: Context
    ) -> renewal_pb2.InstallReply:
        """Take the certificate for it."""
        serial = await asyncio.to_thread(self._renewal.install, request.chain)
        return renewal_pb2.InstallReply(serial=serial)


def renewal_service(renewal: Renewal) -> Service:
    """Return the service as a listener serves it."""
    return Service(
        renewal_pb2.DESCRIPTOR.services_by_name["Renewal"],
        renewal_pb2_grpc.add_RenewalServicer_to_server,
        RenewalService(renewal),
    )


def _refused(expected: str, got: str, reason: str) -> Refused:
    return Refused(
        "renewed certificate",
        expected=expected,
        got=got,
        untouched="the certificate that is served stays",
        reason=reason,
    )
