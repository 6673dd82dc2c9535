"""Whom a listener and a caller believe: each role's issuers, out of the verified `tls.json`.

A verifier trusts the one intermediate of a role, never the root above it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from embrasure.errors import Refused
from embrasure.net.certificates import UNREADABLE, UNTRUE, load_der, pem_of
from embrasure.net.denials import NOTHING, TlsDenials, key_digest
from embrasure.net.identity import PROFILES, Identity, IssuerName, Role
from embrasure.net.profile import usage_of
from embrasure.trust.directory import TlsBundle


@dataclass(frozen=True, slots=True)
class Trust:
    """The issuers of one trust domain.

    gateways: ids that may act as gateway; None while no `tls.json` was verified yet, and then
    the gateway issuer's word is enough. denied: what counts against all of it.
    """

    domain: str
    issuers: Mapping[IssuerName, tuple[x509.Certificate, ...]]
    gateways: frozenset[str] | None
    denied: TlsDenials = NOTHING

    def listed_issuers(self, role: Role) -> tuple[x509.Certificate, ...]:
        """Return the issuers that the bundle names for `role`, denied ones too."""
        return self.issuers.get(PROFILES[role].issuer, ())

    def issuers_of(self, role: Role) -> tuple[x509.Certificate, ...]:
        """Return the issuers that may sign a leaf of `role`; none is a refusal later."""
        listed = self.listed_issuers(role)
        if not self.denied.issuers:
            return listed
        return tuple(cert for cert in listed if key_digest(cert) not in self.denied.issuers)

    def pem(self, roles: Iterable[Role]) -> bytes:
        """Return the issuers of `roles` as PEM, each once.

        Raises Refused (`no-issuer`): gRPC binds a port with an empty trust set and serves.
        """
        return _joined(cert for role in roles for cert in self.issuers_of(role))

    def listener_pem(self, roles: Iterable[Role]) -> bytes:
        """Return the issuers whose leaves TLS lets through to the guard, as PEM.

        When all of them are denied they are shown all the same, and the guard refuses every call: a
        denial must not keep a process from starting that also has the door by which it is lifted.
        Raises Refused (`no-issuer`) for a bundle that names none.
        """
        asked = list(roles)
        good = [cert for role in asked for cert in self.issuers_of(role)]
        return _joined(good or [cert for role in asked for cert in self.listed_issuers(role)])

    def keeps(self, earlier: Trust, role: Role) -> bool:
        """Return whether every issuer that `earlier` believed for `role` is still believed.

        A caller learns nothing of the certificate that it reached: when one of the issuers that it
        dialled with is gone, the connection may be that issuer's. An issuer is its key, which a new
        CA root certifies again.
        """
        return _keys(earlier.issuers_of(role)) <= _keys(self.issuers_of(role))

    def check_admitted(self, identity: Identity, key: str) -> None:
        """Return only when neither list nor denial stands against `identity`; raises Refused.

        key: `key_digest` of its certificate. A gateway must be listed and its key not denied; a
        node must not be denied by its id.
        """
        if identity.role == "gateway":
            if self.gateways is not None and identity.name not in self.gateways:
                raise _turned_away("an id that tls.json lists", identity, "identity")
            if key in self.denied.gateway_certs:
                raise _turned_away("a key that is not denied", identity, "denied")
        if identity.role == "node" and identity.name in self.denied.nodes:
            raise _turned_away("a node that is not denied", identity, "denied")


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


def trust_of(bundle: TlsBundle, denied: TlsDenials = NOTHING) -> Trust:
    """Return the trust that a verified `tls.json` gives; raises Refused (`certificate`).

    denied: what verified policy and revocations say against it.

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
    return Trust(bundle.domain, issuers, frozenset(bundle.gateways), denied)


def first_trust(domain: str, name: IssuerName, issuers: tuple[x509.Certificate, ...]) -> Trust:
    """Return the trust of a service that has verified no `tls.json` yet: one role's issuer."""
    return Trust(domain, {name: issuers}, None)


def check_issuer(cert: x509.Certificate, *, roots: list[x509.Certificate], name: str) -> None:
    """Return only when `cert` is an intermediate that one of `roots` signed; raises Refused.

    It may have leaves of one usage alone, the one of the roles that `name` certifies.
    """
    try:
        basic = cert.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = cert.extensions.get_extension_for_class(x509.KeyUsage).value
        leaves = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        key = cert.public_key()
    except UNREADABLE:
        raise _refused(name, "constraints that can be read", "none") from None
    if not basic.ca or basic.path_length != 0 or not usage.key_cert_sign:
        raise _refused(name, "an issuer of leaves only", "another kind of certificate")
    if {usage_of(profile) for profile in PROFILES.values() if profile.issuer == name} != {*leaves}:
        raise _refused(name, "the one usage of its leaves", "another")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _refused(name, "a P-256 key", type(key).__name__)
    if not any(_signed(cert, root) for root in roots):
        raise _refused(name, "a signature of the bundle's CA root", "another one")


def _keys(certs: Iterable[x509.Certificate]) -> set[str]:
    return {key_digest(cert) for cert in certs}


def _joined(certs: Iterable[x509.Certificate]) -> bytes:
    found = dict.fromkeys(certs)
    if not found:
        raise Refused("TLS trust", expected="at least one issuer", got="none", reason="no-issuer")
    return b"".join(pem_of(cert) for cert in found)


def _turned_away(expected: str, identity: Identity, reason: str) -> Refused:
    return Refused(
        identity.role,
        expected=expected,
        got=identity.name,
        untouched="the peer was given nothing",
        reason=reason,
    )


def _signed(cert: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        cert.verify_directly_issued_by(root)
    except UNTRUE:
        return False
    return True


def _refused(name: str, expected: str, got: object) -> Refused:
    return Refused(f"{name} issuer in tls.json", expected=expected, got=got, reason="certificate")
