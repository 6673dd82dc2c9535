"""Certificates: what is always in them, whatever a request asks, and who takes them."""

from __future__ import annotations

import base64
import dataclasses
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from embrasure import limits
from embrasure.errors import Misuse, Refused
from embrasure.net.identity import PROFILES, Role
from embrasure.net.profile import check_leaf
from embrasure.net.trustbundle import check_issuer
from pki import ca, leaf, profiles, schemes
from pki.ca import Issuer
from tests.ablation import Ablation
from tests.unit.pki.conftest import AT, clock

DOMAIN = "example.org"
CA_KEY = ec.generate_private_key(ec.SECP256R1())
KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in profiles.ISSUERS}
ROOT = ca.make_root(CA_KEY, domain=DOMAIN, at=AT)
ISSUERS = {
    name: Issuer(
        name,
        DOMAIN,
        ca.make_issuer(name, key.public_key(), root=ROOT, root_key=CA_KEY, domain=DOMAIN, at=AT),
        key,
    )
    for name, key in KEYS.items()
}
ROLES: list[Role] = list(PROFILES)


def issue(role: Role, at: datetime = AT) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = ISSUERS[PROFILES[role].issuer]
    return ca.issue_leaf(f"{role}/x1", key.public_key(), issuer, lambda: at)


@pytest.mark.parametrize("role", ROLES)
def test_every_leaf_passes_the_verifiers_whole_profile(role: Role) -> None:
    found = issue(role)
    issuer = ISSUERS[PROFILES[role].issuer].certificate
    assert str(check_leaf(found, role=role, issuers=[issuer], domain=DOMAIN, at=AT)) == f"{role}/x1"


@pytest.mark.parametrize("role", ROLES)
def test_every_leaf_has_usage_critical_names_and_no_authority(role: Role) -> None:
    found = issue(role).extensions
    names = found.get_extension_for_class(x509.SubjectAlternativeName)
    basic = found.get_extension_for_class(x509.BasicConstraints)
    usage = found.get_extension_for_class(x509.ExtendedKeyUsage).value
    bits = found.get_extension_for_class(x509.KeyUsage)
    assert names.critical and basic.critical and bits.critical
    assert not basic.value.ca and len(list(usage)) == 1
    assert bits.value.digital_signature and not bits.value.key_cert_sign
    wanted = (
        ExtendedKeyUsageOID.CLIENT_AUTH
        if PROFILES[role].client
        else (ExtendedKeyUsageOID.SERVER_AUTH)
    )
    assert list(usage) == [wanted]


@pytest.mark.parametrize("role", ROLES)
def test_every_leaf_lives_as_long_as_its_profile_says(role: Role) -> None:
    found = issue(role)
    assert found.not_valid_after_utc - AT == timedelta(seconds=PROFILES[role].life_seconds)
    assert AT - found.not_valid_before_utc == timedelta(seconds=limits.BACKDATE_SECONDS)
    assert not list(found.subject) and found.serial_number.bit_length() <= 159


def test_a_leaf_never_outlives_its_issuer() -> None:
    late = ISSUERS["node"].certificate.not_valid_after_utc - timedelta(hours=1)
    assert issue("node", late).not_valid_after_utc == late + timedelta(hours=1)
    with pytest.raises(Refused):
        issue("node", late + timedelta(hours=1))


@pytest.mark.misuse
def test_an_ed25519_leaf_is_refused_at_issuance(ablation: Ablation) -> None:
    key = Ed25519PrivateKey.generate().public_key()
    with pytest.raises(Refused, match="P-256"):
        ca.issue_leaf("node/n1", key, ISSUERS["node"], clock)
    with ablation("the kind of key") as attack:
        attack.without("pki.ca.check_leaf_key", lambda found: found)
        attack.succeeded(ca.issue_leaf("node/n1", key, ISSUERS["node"], clock).public_key() == key)


@pytest.mark.misuse
def test_a_p384_leaf_is_refused_at_issuance(ablation: Ablation) -> None:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    with pytest.raises(Refused):
        ca.issue_leaf("node/n1", key, ISSUERS["node"], clock)
    with ablation("the kind of key") as attack:
        attack.without("pki.ca.check_leaf_key", lambda found: found)
        attack.succeeded(ca.issue_leaf("node/n1", key, ISSUERS["node"], clock).public_key() == key)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.misuse
def test_an_issuer_signs_for_its_own_role_only(role: Role, ablation: Ablation) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    right = PROFILES[role].issuer
    for name, issuer in ISSUERS.items():
        if name != right:
            with pytest.raises(Refused):
                ca.issue_leaf(f"{role}/x1", key, issuer, clock)
            with ablation("the name of the issuer") as attack:
                liar = dataclasses.replace(issuer, name=right)
                leaf = ca.issue_leaf(f"{role}/x1", key, liar, clock)
                attack.succeeded(leaf.issuer == issuer.certificate.subject)


@pytest.mark.parametrize(
    "identity",
    ["node", "node/", "/n1", "node/n1/x", "node/N1", "node/..", "root/x", "node/n1?", "node/n%2f"],
)
def test_an_identity_outside_the_grammar_is_a_usage_error(identity: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(Misuse):
        ca.issue_leaf(identity, key, ISSUERS["node"], clock)


def request(*extensions: x509.ExtensionType) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "spiffe://example.org/gateway/g1")])
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(KEYS["node"], hashes.SHA256()).public_bytes(Encoding.PEM)


WANTED: list[x509.ExtensionType] = [
    x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://example.org/gateway/g")]),
    x509.BasicConstraints(ca=True, path_length=None),
    x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.CODE_SIGNING]),
]


@given(st.sets(st.sampled_from(range(len(WANTED)))))
def test_whatever_a_request_asks_for_only_its_key_counts(asked: set[int]) -> None:
    public = ca.parse_request(request(*(WANTED[number] for number in asked)))
    found = ca.issue_leaf("mirror/m1", public, ISSUERS["mirror"], clock)
    issuer = ISSUERS["mirror"].certificate
    check_leaf(found, role="mirror", issuers=[issuer], domain=DOMAIN, at=AT)


@pytest.mark.misuse
def test_a_request_without_proof_of_possession_is_refused(ablation: Ablation) -> None:
    der = bytearray(x509.load_pem_x509_csr(request()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    forged = b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(bytes(der))
    forged += b"-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(Refused):
        ca.parse_request(forged)
    with ablation("the proof of possession") as attack:
        public = x509.load_pem_x509_csr(forged).public_key()
        attack.succeeded(ca.issue_leaf("mirror/m1", public, ISSUERS["mirror"], clock))


@given(st.binary(max_size=512))
def test_foreign_bytes_are_refused_as_request_and_as_certificate(raw: bytes) -> None:
    for reader in (ca.parse_request, ca.parse_certificate):
        with pytest.raises(Refused):
            reader(raw)


@pytest.mark.misuse
def test_garbage_beside_a_certificate_is_refused(ablation: Ablation) -> None:
    good = ca.pem(ROOT)
    assert ca.parse_certificate(good) == ROOT
    for raw in (good + good, good + b"garbage", b"garbage\n" + good, good.rstrip()):
        with pytest.raises(Refused):
            ca.parse_certificate(raw)
        with ablation("the form of the whole file") as attack:
            attack.succeeded(x509.load_pem_x509_certificates(raw)[0] == ROOT)


def verifier(trusted: x509.Certificate, name: str) -> verification.ServerVerifier:
    store = verification.Store([trusted])
    return (
        verification.PolicyBuilder().store(store).time(AT).build_server_verifier(x509.DNSName(name))
    )


def test_a_chain_verifies_to_the_root_and_to_the_one_issuer() -> None:
    found, issuer = issue("node"), ISSUERS["node"].certificate
    name = "x1.node.example.org.internal"
    assert verifier(ROOT, name).verify(found, [issuer])
    assert verifier(issuer, name).verify(found, [])


@pytest.mark.misuse
def test_a_stolen_node_issuer_cannot_name_a_mirror(
    monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    name = "m1.mirror.example.org.internal"
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    honest = ca.issue_leaf("mirror/m1", public, ISSUERS["mirror"], clock)
    assert verifier(ROOT, name).verify(honest, [ISSUERS["mirror"].certificate])
    monkeypatch.setattr("pki.profiles.names_of", lambda *_: names)  # the thief's own program
    thief = ca.issue_leaf("node/n1", public, ISSUERS["node"], clock)
    with pytest.raises(verification.VerificationError):
        verifier(ROOT, name).verify(thief, [ISSUERS["node"].certificate])
    with ablation("the constraints of the issuer") as attack:
        attack.without("pki.profiles.issuer_zones", lambda *_: [])
        key = KEYS["node"].public_key()
        free = ca.make_issuer("node", key, root=ROOT, root_key=CA_KEY, domain=DOMAIN, at=AT)
        attack.succeeded(verifier(ROOT, name).verify(thief, [free]))


def test_a_fresh_leaf_comes_with_its_key_and_its_issuer() -> None:
    key, chain = leaf.fresh_leaf(ISSUERS["gateway"], "gateway/g1", clock)
    first, second = x509.load_pem_x509_certificates(chain)
    assert second == ISSUERS["gateway"].certificate
    assert key.startswith(b"-----BEGIN PRIVATE KEY-----")
    first.verify_directly_issued_by(second)


@pytest.mark.parametrize("scheme", ["ecdsa-p256", "ecdsa-p384", "ml-dsa-65"])
def test_a_root_of_each_kind_certifies_p256_issuers(scheme: schemes.Scheme) -> None:
    key = ca.root_key(schemes.generate(scheme))
    root = ca.make_root(key, domain=DOMAIN, at=AT)
    public = KEYS["node"].public_key()
    issuer = ca.make_issuer("node", public, root=root, root_key=key, domain=DOMAIN, at=AT)
    issuer.verify_directly_issued_by(root)
    check_issuer(issuer, roots=[root], name="node")
    assert len(base64.b64encode(ca.der(root))) <= 8192


@pytest.mark.misuse
def test_an_ed25519_root_is_refused(ablation: Ablation) -> None:
    private = schemes.generate("ed25519")
    with pytest.raises(Refused, match="P-256, P-384 or ML-DSA-65"):
        ca.root_key(private)
    with ablation("the kinds of a root") as attack:
        attack.succeeded(private.sign(b"anything"))  # type: ignore[call-arg]  # Ed25519 has no more


def test_an_issuer_never_outlives_its_root() -> None:
    late = ROOT.not_valid_after_utc - timedelta(days=10)
    public = KEYS["node"].public_key()
    found = ca.make_issuer("node", public, root=ROOT, root_key=CA_KEY, domain=DOMAIN, at=late)
    assert found.not_valid_after_utc == ROOT.not_valid_after_utc
    with pytest.raises(Refused, match="a living root"):
        ca.make_issuer("node", public, root=ROOT, root_key=CA_KEY, domain=DOMAIN,
                       at=ROOT.not_valid_after_utc)  # fmt: skip


def test_every_authority_says_what_it_may_do() -> None:
    for name, issuer in ISSUERS.items():
        found = issuer.certificate.extensions
        basic = found.get_extension_for_class(x509.BasicConstraints)
        bits = found.get_extension_for_class(x509.KeyUsage)
        zones = found.get_extension_for_class(x509.NameConstraints)
        usage = found.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert basic.critical and basic.value.path_length == 0
        assert bits.critical and bits.value.key_cert_sign and bits.value.crl_sign
        assert not bits.value.digital_signature
        assert list(usage) == [profiles.issuer_usage(name)]
        assert zones.critical and len(zones.value.excluded_subtrees or []) == 2
        names = [zone.value for zone in zones.value.permitted_subtrees or []]
        assert names == profiles.issuer_zones(name, DOMAIN)
    root = ROOT.extensions.get_extension_for_class(x509.BasicConstraints)
    assert root.critical and root.value.path_length == 1
    assert ROOT.not_valid_after_utc - AT == timedelta(seconds=limits.CA_ROOT_SECONDS)
