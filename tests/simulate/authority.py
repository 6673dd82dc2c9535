"""A whole certificate authority in memory: one root, one issuer a role, honest and forged leaves.

For tests alone. Its keys live as long as the object; its honest leaves follow the product's
profiles, and every part of a leaf can be told otherwise to forge one.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from embrasure.clock import Clock, now

DOMAIN = "fleet.example"
BACKDATE = timedelta(minutes=5)
ISSUERS = ("gateway", "admin", "node", "mirror", "operator")
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True, slots=True)
class Kind:
    """What an honest leaf of one role looks like."""

    issuer: str
    usage: x509.ObjectIdentifier
    hours: int
    dns: str = ""


KINDS = {
    "gateway": Kind("gateway", CLIENT, 24),
    "gateway-admin": Kind("admin", SERVER, 168, "admin.{domain}.internal"),
    "node": Kind("node", SERVER, 168, "{name}.node.{domain}.internal"),
    "mirror": Kind("mirror", SERVER, 168, "{name}.mirror.{domain}.internal"),
    "letterbox": Kind("mirror", SERVER, 168, "{name}.letterbox.{domain}.internal"),
    "operator": Kind("operator", CLIENT, 10),
}
PERMITTED = {
    "node": ("node.{domain}.internal",),
    "mirror": ("mirror.{domain}.internal", "letterbox.{domain}.internal"),
    "admin": ("admin.{domain}.internal",),
}


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate and its key, as the files a service would hold."""

    certificate: x509.Certificate
    key_pem: bytes
    chain_pem: bytes

    @property
    def pem(self) -> bytes:
        """The leaf alone."""
        return pem_of(self.certificate)


@dataclass(frozen=True, slots=True)
class Issuer:
    """A certificate that signs others, and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate as PEM."""
        return pem_of(self.certificate)


def pem_of(certificate: x509.Certificate) -> bytes:
    """Return the PEM of `certificate`."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def der_text(certificate: x509.Certificate) -> str:
    """Return the DER in base64, as `tls.json` carries it."""
    return base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode("ascii")


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return `key` as unencrypted PKCS#8."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_usage(*, signs: bool) -> x509.KeyUsage:
    """Return the key usage of an issuer (certificates, lists) or of a leaf (signatures)."""
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


class Authority:
    """One trust domain: `root`, `issuers` by name, and `leaf` for everybody else."""

    def __init__(self, domain: str = DOMAIN, *, clock: Clock = now) -> None:
        self.domain = domain
        self.clock = clock
        self.root = self._make_root()
        self.issuers = {name: self.new_issuer(name) for name in ISSUERS}

    def issuer_pem(self, name: str) -> bytes:
        """Return the PEM of the issuer `name` (one of ISSUERS)."""
        return self.issuers[name].pem

    def tls_members(self) -> dict[str, object]:
        """Return the members of `tls.json` that come from here: domain, ca_root, issuers."""
        return {
            "domain": self.domain,
            "ca_root": (der_text(self.root.certificate),),
            "issuers": {name: (der_text(i.certificate),) for name, i in self.issuers.items()},
        }

    def leaf(
        self,
        role: str,
        name: str,
        *,
        issuer: Issuer | None = None,
        uris: Sequence[str] | None = None,
        dns: Sequence[str] | None = None,
        other_names: Sequence[x509.GeneralName] = (),
        usages: Sequence[x509.ObjectIdentifier] | None = None,
        common_name: str = "",
        san: bool = True,
        san_critical: bool = True,
        ca: bool = False,
        starts: timedelta = -BACKDATE,
        life: timedelta | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        public: ec.EllipticCurvePublicKey | None = None,
    ) -> Leaf:
        """Return an honest leaf of `role`, or a forged one when told what differs.

        public: the leaf is for this key, whose private half lies elsewhere (not the Leaf's)
        """
        kind = KINDS[role]
        signed_by = issuer or self.issuers[kind.issuer]
        own = key or new_key()
        honest_dns = [kind.dns.format(name=name, domain=self.domain)] if kind.dns else []
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(uri)
            for uri in (uris if uris is not None else [f"spiffe://{self.domain}/{role}/{name}"])
        ]
        names += [x509.DNSName(host) for host in (dns if dns is not None else honest_dns)]
        begin = self.clock() + starts
        builder = self._builder(
            subject=common_name,
            signed_by=signed_by,
            public=public or own.public_key(),
            begin=begin,
            end=begin + (life if life is not None else timedelta(hours=kind.hours)),
        )
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        builder = builder.add_extension(key_usage(signs=False), critical=True)
        if san:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([*names, *other_names]), critical=san_critical
            )
        wanted = [kind.usage] if usages is None else list(usages)
        if wanted:
            builder = builder.add_extension(x509.ExtendedKeyUsage(wanted), critical=False)
        certificate = builder.sign(signed_by.key, hashes.SHA256())
        # The issuer behind the leaf, as the product writes it: a door's caller needs the whole way.
        return Leaf(certificate, key_pem(own), pem_of(certificate) + signed_by.pem)

    def new_issuer(
        self, name: str, *, by: Issuer | None = None, key: ec.EllipticCurvePrivateKey | None = None
    ) -> Issuer:
        """Return a new issuer of the kind `name`, signed by the root (or by `by`).

        key: of an issuer that another root certifies again; None: a new one
        """
        key = key or new_key()
        signed_by = by or self.root
        begin = self.clock() - BACKDATE
        builder = self._builder(
            subject=f"{name} issuer",
            signed_by=signed_by,
            public=key.public_key(),
            begin=begin,
            end=begin + timedelta(days=365),
        )
        builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
        builder = builder.add_extension(key_usage(signs=True), critical=True)
        usage = CLIENT if name in ("gateway", "operator") else SERVER
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        permitted = [
            x509.DNSName(host.format(domain=self.domain)) for host in PERMITTED.get(name, ())
        ]
        builder = builder.add_extension(
            x509.NameConstraints(
                permitted or None,
                [
                    x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
                    x509.IPAddress(ipaddress.ip_network("::/0")),
                ],
            ),
            critical=True,
        )
        return Issuer(builder.sign(signed_by.key, hashes.SHA256()), key)

    def _make_root(self) -> Issuer:
        key = new_key()
        begin = self.clock() - BACKDATE
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{self.domain} root")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(True, 1), critical=True)
            .add_extension(key_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        )
        return Issuer(builder.sign(key, hashes.SHA256()), key)

    def _builder(
        self,
        *,
        subject: str,
        signed_by: Issuer,
        public: ec.EllipticCurvePublicKey,
        begin: datetime,
        end: datetime,
    ) -> x509.CertificateBuilder:
        names = [x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else []
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name(names))
            .issuer_name(signed_by.certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_by.key.public_key()),
                critical=False,
            )
        )
