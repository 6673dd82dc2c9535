"""Hostile certificate requests: whatever they ask for, the leaf is what the profile says."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from embrasure.clock import now
from embrasure.errors import Refused
from embrasure.net.identity import PROFILES, Role
from embrasure.net.profile import check_leaf
from pki import ca, profiles
from pki.ca import Issuer
from tests.ablation import Ablation

DOMAIN, AT = "example.org", now()
CA_KEY, KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
ROOT = ca.make_root(CA_KEY, domain=DOMAIN, at=AT)
ISSUERS = {
    name: Issuer(
        name,
        DOMAIN,
        ca.make_issuer(name, CA_KEY.public_key(), root=ROOT, root_key=CA_KEY, domain=DOMAIN, at=AT),
        CA_KEY,
    )
    for name in profiles.ISSUERS
}

WORDS = st.sampled_from(
    ["spiffe://example.org/gateway/g1", "g1", "*", "admin.example.org.internal", "x" * 40]
)
NAMES: st.SearchStrategy[list[x509.GeneralName]] = st.lists(
    WORDS.map(x509.UniformResourceIdentifier) | WORDS.map(x509.DNSName), min_size=1, max_size=4
)
USAGES = st.lists(
    st.sampled_from(
        [
            ExtendedKeyUsageOID.CLIENT_AUTH,
            ExtendedKeyUsageOID.SERVER_AUTH,
            ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
            ExtendedKeyUsageOID.CODE_SIGNING,
        ]
    ),
    min_size=1,
    max_size=4,
    unique=True,
)
EXTENSIONS: st.SearchStrategy[x509.ExtensionType] = (
    NAMES.map(x509.SubjectAlternativeName)
    | st.integers(0, 9).map(lambda depth: x509.BasicConstraints(ca=True, path_length=depth))
    | USAGES.map(x509.ExtendedKeyUsage)
    | st.binary(max_size=40).map(
        lambda raw: x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), raw)
    )
)


def request(subject: str, wanted: list[tuple[x509.ExtensionType, bool]]) -> bytes:
    """A signed request for everything in `wanted`."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    seen = set()
    for extension, critical in wanted:
        if extension.oid not in seen:
            seen.add(extension.oid)
            builder = builder.add_extension(extension, critical)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)


def leaf(raw: bytes, role: Role) -> x509.Certificate:
    """The leaf that a request gets."""
    public = ca.parse_request(raw)
    return ca.issue_leaf(f"{role}/x1", public, ISSUERS[PROFILES[role].issuer], lambda: AT)


def shape(cert: x509.Certificate) -> list[tuple[str, bool]]:
    """Which extensions stand in a leaf, and which of them are critical."""
    return sorted((ext.oid.dotted_string, ext.critical) for ext in cert.extensions)


@given(
    role=st.sampled_from(list(PROFILES)),
    subject=WORDS,
    wanted=st.lists(st.tuples(EXTENSIONS, st.booleans()), max_size=4),
)
def test_nothing_but_the_key_of_a_request_reaches_the_leaf(
    role: Role, subject: str, wanted: list[tuple[x509.ExtensionType, bool]]
) -> None:
    found, plain = leaf(request(subject, wanted), role), leaf(request("x", []), role)
    issuer = ISSUERS[PROFILES[role].issuer].certificate
    check_leaf(found, role=role, issuers=[issuer], domain=DOMAIN, at=AT)
    assert not list(found.subject) and shape(found) == shape(plain)
    for kind in (x509.SubjectAlternativeName, x509.BasicConstraints, x509.ExtendedKeyUsage):
        assert found.extensions.get_extension_for_class(kind).value == (
            plain.extensions.get_extension_for_class(kind).value
        )


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_request_with_one_bit_changed_is_refused_or_the_same_key(position: int, bit: int) -> None:
    whole = x509.load_pem_x509_csr(request("g1", []))
    der = bytearray(whole.public_bytes(Encoding.DER))
    der[position % len(der)] ^= 1 << bit
    text = base64.encodebytes(bytes(der))
    raw = b"-----BEGIN CERTIFICATE REQUEST-----\n" + text + b"-----END CERTIFICATE REQUEST-----\n"
    try:
        found = ca.parse_request(raw)
    except Refused:
        return
    assert found.public_numbers() == KEY.public_key().public_numbers()


@given(st.binary(max_size=300))
def test_bytes_that_are_no_request_are_refused(raw: bytes) -> None:
    for frame in (raw, b"-----BEGIN CERTIFICATE REQUEST-----\n" + raw):
        with pytest.raises(Refused):
            ca.parse_request(frame)


@pytest.mark.misuse
def test_a_request_for_a_gateways_name_gets_its_own(ablation: Ablation) -> None:
    wanted = x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier("spiffe://example.org/gateway/g1")]
    )
    raw = request("g1", [(wanted, True), (x509.BasicConstraints(ca=True, path_length=3), True)])
    names = leaf(raw, "node").extensions.get_extension_for_class(x509.SubjectAlternativeName)
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["spiffe://example.org/node/x1"]
    with ablation("taking names from the profile") as attack:
        asked = x509.load_pem_x509_csr(raw).extensions
        theirs = asked.get_extension_for_class(x509.SubjectAlternativeName).value
        attack.without("pki.profiles.names_of", lambda *_: theirs)
        found = leaf(raw, "node").extensions.get_extension_for_class(x509.SubjectAlternativeName)
        attack.succeeded(found.value == wanted)
