"""Whom a listener and a caller believe: each role's issuers, out of the verified `tls.json`.

A verifier trusts the one intermediate of a role, never the root above it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from embrasure.errors import Refused
from embrasure.net.certificates import load_der, pem_of
from embrasure.net.identity import PROFILES, Identity, IssuerName, Role
from embrasure.trust.directory import TlsBundle


@dataclass(frozen=True, slots=True)
class Trust:
    """The issuers of one trust domain.

    gateways: ids that may act as gateway; None while no `tls.json` was verified yet, and then
    the gateway issuer's word is enough.
    """

    domain: str
    issuers: Mapping[IssuerName, tuple[x509.Certificate, ...]]
    gateways: frozenset[str] | None

    def issuers_of(self, role: Role) -> tuple[x509.Certificate, ...]:
        """Return the issuers that may sign a leaf of `role`; none is a refusal later."""
        return self.issuers.get(PROFILES[role].issuer, ())

    def pem(self, roles: Iterable[Role]) -> bytes:
        """Return the issuers of `roles` as PEM, each once.

        Raises Refused (`no-issuer`): gRPC binds a port with an empty trust set and serves.
        """
        found = dict.fromkeys(cert for role in roles for cert in self.issuers_of(role))
        if not found:
            raise Refused(
                "TLS trust", expected="at least one issuer", got="none", reason="no-issuer"
            )
        return b"".join(pem_of(cert) for cert in found)

    def check_listed(self, identity: Identity) -> None:
        """Return only when `identity` is no gateway, or one that `tls.json` lists."""
        if identity.role != "gateway" or self.gateways is None:
            return
        if identity.name not in self.gateways:
            raise Refused(
                "gateway",
                expected="an id that tls.json lists",
                got=identity.name,
                untouched="the peer was given nothing",
                reason="identity",
            )


class TrustHolder:
    """The trust of one process, swapped as a whole when a newer `tls.json` was verified.

    epoch: rises with each swap; a verdict about a peer counts only inside its epoch, because open
    connections outlive the bundle that let them in.
    """

    def __init__(self, trust: Trust) -> None:
        self._state = (trust, 1)

    @property
    def state(self) -> tuple[Trust, int]:
        """The trust and its epoch, read together."""
        return self._state

    @property
    def trust(self) -> Trust:
        """The trust now."""
        return self._state[0]

    def swap(self, trust: Trust) -> None:
        """`trust` holds from now on, for running calls too."""
        if trust != self._state[0]:
            self._state = (trust, self._state[1] + 1)


def trust_of(bundle: TlsBundle) -> Trust:
    """Return the trust that a verified `tls.json` gives; raises Refused (`certificate`).

    Every intermediate must be a P-256 issuer without issuers below it, signed by a CA root of the
    bundle.
    """
    roots = [load_der(text, what="CA root") for text in bundle.ca_root]
    issuers: dict[IssuerName, tuple[x509.Certificate, ...]] = {}
    for name, texts in bundle.issuers.items():
        found = tuple(load_der(text, what=f"{name} issuer") for text in texts)
        for cert in found:
            check_issuer(cert, roots=roots, name=name)
        issuers[name] = found
    return Trust(bundle.domain, issuers, frozenset(bundle.gateways))


def first_trust(domain: str, name: IssuerName, issuers: tuple[x509.Certificate, ...]) -> Trust:
    """Return the trust of a service that has verified no `tls.json` yet: one role's issuer."""
    return Trust(domain, {name: issuers}, None)


def check_issuer(cert: x509.Certificate, *, roots: list[x509.Certificate], name: str) -> None:
    """Return only when `cert` is an intermediate that one of `roots` signed; raises Refused."""
    try:
        basic = cert.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = cert.extensions.get_extension_for_class(x509.KeyUsage).value
        key = cert.public_key()
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError, TypeError):
        raise _refused(name, "constraints that can be read", "none") from None
    if not basic.ca or basic.path_length != 0 or not usage.key_cert_sign:
        raise _refused(name, "an issuer of leaves only", "another kind of certificate")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _refused(name, "a P-256 key", type(key).__name__)
    if not any(_signed(cert, root) for root in roots):
        raise _refused(name, "a signature of the bundle's CA root", "another one")


def _signed(cert: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        cert.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _refused(name: str, expected: str, got: object) -> Refused:
    return Refused(f"{name} issuer in tls.json", expected=expected, got=got, reason="certificate")
