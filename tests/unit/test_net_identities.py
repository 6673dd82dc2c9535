"""Names, profiles, certificates and trust sets: what is taken, and what never is."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from embrasure.clock import now
from embrasure.errors import EmbrasureError, Misuse, Refused
from embrasure.net.authorize import check_table, peer_identity
from embrasure.net.certificates import check_pair, load_certificates, load_der, load_key
from embrasure.net.credentials import Pair
from embrasure.net.identity import PROFILES, Identity, Role, dns_name, parse_uri, uri
from embrasure.net.profile import check_leaf
from embrasure.net.status import MAX_DETAILS, status_of
from embrasure.net.trustbundle import Trust, TrustHolder, first_trust, trust_of
from embrasure.trust.directory import TlsBundle
from tests.ablation import Ablation
from tests.simulate.authority import KINDS, Authority, der_text

DOMAIN = "fleet.example"
ROOT_ID = "0" * 64
KEY = "1" * 64


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def bundle(authority: Authority, **changed: Any) -> TlsBundle:
    members = {**authority.tls_members(), **changed}
    return TlsBundle(v=1, type="tls", root=ROOT_ID, env="dev", gateways=("g1",), **members)


@pytest.mark.parametrize("role", PROFILES)
def test_a_name_reads_back_as_it_was_written(role: Any) -> None:
    assert parse_uri(uri(role, "x1", DOMAIN), domain=DOMAIN) == Identity(role, "x1")
    assert str(Identity(role, "x1")) == f"{role}/x1"


def test_only_servers_have_a_dns_name() -> None:
    assert dns_name("node", "n1", DOMAIN) == "n1.node.fleet.example.internal"
    assert dns_name("gateway-admin", "g1", DOMAIN) == "admin.fleet.example.internal"
    assert dns_name("gateway", "g1", DOMAIN) == ""


@pytest.mark.parametrize(
    ("name", "domain"), [("../x", DOMAIN), ("X", DOMAIN), ("", DOMAIN), ("x", "a..b"), ("x", "A")]
)
def test_a_name_or_domain_outside_the_grammar_is_misuse(name: str, domain: str) -> None:
    with pytest.raises(Misuse):
        uri("node", name, domain)


@pytest.mark.parametrize("role", PROFILES)
def test_an_honest_leaf_of_each_role_is_whole(authority: Authority, role: Any) -> None:
    leaf = authority.leaf(role, "x1").certificate
    found = check_leaf(
        leaf,
        role=role,
        issuers=[authority.issuers[KINDS[role].issuer].certificate],
        domain=DOMAIN,
        at=now(),
    )
    assert found == Identity(role, "x1")


FORGED_SERVERS: dict[str, dict[str, Any]] = {
    "no dns name": {"dns": []},
    "dns name of another": {"dns": ["n2.node.fleet.example.internal"]},
    "two dns names": {"dns": ["n1.node.fleet.example.internal", "n2.node.fleet.example.internal"]},
    "wildcard": {"dns": ["*.node.fleet.example.internal"]},
    "two uris": {"uris": ["spiffe://fleet.example/node/n1", "spiffe://fleet.example/node/n2"]},
    "name of another role": {"uris": ["spiffe://fleet.example/mirror/n1"]},
    "address": {
        "other_names": [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))],
    },
    "e-mail": {"other_names": [x509.RFC822Name("a@b.example")]},
    "may issue": {"ca": True},
    "no names": {"san": False},
    "names not critical": {"san_critical": False},
    "eight days": {"life": timedelta(days=8)},
    "not yet": {"starts": timedelta(hours=1)},
    "over": {"starts": timedelta(days=-8)},
    "a subject": {"common_name": "n1"},
    "usage of a client": {"usages": [KINDS["gateway"].usage]},
    "P-384": {"key": ec.generate_private_key(ec.SECP384R1())},
}


N1 = Identity("node", "n1")
STEPS = "embrasure.net.profile."
# Which steps of the profile see it; two steps see some, each for its own reason.
SEEN_BY = {
    "may issue": "_check_chain",
    "usage of a client": "_check_chain",
    "eight days": "check_life",
    "not yet": "check_life _check_chain",
    "over": "check_life _check_chain",
    "P-384": "check_key",
    "two dns names": "check_names",
    "wildcard": "check_names",
    "two uris": "check_names",
    "name of another role": "check_names",
    "e-mail": "check_names",
    "a subject": "check_names",
}


@pytest.mark.misuse
@pytest.mark.parametrize("forgery", FORGED_SERVERS)
def test_a_forged_server_leaf_of_the_right_issuer_is_refused(
    authority: Authority, forgery: str, ablation: Ablation
) -> None:
    leaf = authority.leaf("node", "n1", **FORGED_SERVERS[forgery]).certificate

    def check() -> Identity:
        return check_leaf(
            leaf,
            role="node",
            issuers=[authority.issuers["node"].certificate],
            domain=DOMAIN,
            at=now(),
        )

    with pytest.raises(Refused) as caught:
        check()
    assert caught.value.reason in ("certificate", "identity")
    steps = SEEN_BY.get(forgery, "check_names _check_chain")
    with ablation(steps) as attack:
        for step in steps.split():
            with pytest.raises(Refused):
                check()  # the steps that are left still refuse
            attack.without(f"{STEPS}{step}", lambda *_, **__: N1)
        attack.succeeded(check() == N1)


@pytest.mark.misuse
@pytest.mark.parametrize("issuer", ["gateway", "operator", "mirror"])
def test_an_issuer_cannot_sign_for_another_role(
    authority: Authority, issuer: str, ablation: Ablation
) -> None:
    wrong = authority.issuers[issuer]
    leaf = authority.leaf("node", "n1", issuer=wrong).certificate
    right = [authority.issuers["node"].certificate]
    for issuers in (right, [*right, wrong.certificate] if issuer == "mirror" else right):
        with pytest.raises(Refused):
            check_leaf(leaf, role="node", issuers=issuers, domain=DOMAIN, at=now())
    with ablation("the chain to the role's own issuer") as attack:
        attack.without(f"{STEPS}_check_chain")
        found = check_leaf(leaf, role="node", issuers=right, domain=DOMAIN, at=now())
        attack.succeeded(found == N1)


@pytest.mark.misuse
def test_no_issuer_is_no_trust(authority: Authority, ablation: Ablation) -> None:
    leaf = Authority().leaf("node", "n1").certificate
    with pytest.raises(Refused, match="an issuer to trust"):
        check_leaf(leaf, role="node", issuers=[], domain=DOMAIN, at=now())
    with ablation("an issuer to trust, and the chain to it") as attack:
        attack.without(f"{STEPS}_require")
        attack.without(f"{STEPS}_check_chain")
        attack.succeeded(check_leaf(leaf, role="node", issuers=[], domain=DOMAIN, at=now()) == N1)


def test_both_issuers_of_an_overlap_are_taken(authority: Authority) -> None:
    old, new = authority.issuers["gateway"], authority.new_issuer("gateway")
    for issuer in (old, new):
        leaf = authority.leaf("gateway", "g1", issuer=issuer).certificate
        issuers = [old.certificate, new.certificate]
        check_leaf(leaf, role="gateway", issuers=issuers, domain=DOMAIN, at=now())


@pytest.mark.misuse
@pytest.mark.parametrize(
    "spoil",
    [
        lambda pem: pem + b"garbage",
        lambda pem: b"garbage\n" + pem,
        lambda pem: pem + pem[:100],
        lambda pem: pem.replace(b"\n", b"\r\n"),
        lambda pem: pem * 200,
    ],
)
def test_a_certificate_file_is_read_whole_or_not_at_all(
    authority: Authority, spoil: Any, ablation: Ablation
) -> None:
    pem = authority.issuer_pem("gateway")
    assert len(load_certificates(pem + pem, what="issuer")) == 2
    with pytest.raises(Refused):
        load_certificates(spoil(pem), what="issuer")
    with ablation("the form of the whole file") as attack:
        attack.succeeded(x509.load_pem_x509_certificates(spoil(pem)))


def test_a_file_without_a_certificate_is_refused(authority: Authority) -> None:
    for raw in (b"", authority.issuer_pem("gateway").replace(b"M", b"!", 1)):
        with pytest.raises(Refused):
            load_certificates(raw, what="issuer")


@pytest.mark.misuse
def test_an_ed25519_key_is_refused_with_a_clear_sentence(ablation: Ablation) -> None:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with pytest.raises(Refused, match="a P-256 key, got Ed25519PrivateKey"):
        load_key(pem, what="TLS key")
    with ablation("the kind of key") as attack:
        attack.succeeded(serialization.load_pem_private_key(pem, password=None))


@pytest.mark.misuse
def test_a_key_that_does_not_fit_its_certificate_is_named(
    authority: Authority, ablation: Ablation
) -> None:
    one, other = authority.leaf("node", "n1"), authority.leaf("node", "n1")
    with pytest.raises(Refused, match="the key of its certificate"):
        check_pair(one.key_pem, other.chain_pem, what="TLS")
    assert "PRIVATE" not in repr(Pair(one.key_pem, one.chain_pem))
    with ablation("the check of the pair") as attack:
        # gRPC takes the two, and every handshake fails later.
        attack.succeeded(
            grpc.ssl_server_certificate_configuration([(one.key_pem, other.chain_pem)])
        )


def test_the_refusal_of_a_key_never_quotes_it(authority: Authority) -> None:
    pem = authority.leaf("node", "n1").key_pem
    for spoiled in (pem[:-40], pem.replace(b"PRIVATE", b"PUBLIC"), b"hunter2", b"\xff" * 40):
        with pytest.raises(Refused) as caught:
            load_key(spoiled, what="TLS key")
        text = " ".join(caught.value.lines())
        assert "hunter2" not in text
        assert pem.decode().splitlines()[1][:20] not in text


def test_a_verified_bundle_becomes_trust(authority: Authority) -> None:
    trust = trust_of(bundle(authority))
    assert trust.issuers_of("letterbox") == (authority.issuers["mirror"].certificate,)
    assert trust.pem(["gateway", "gateway"]) == authority.issuer_pem("gateway")
    trust.check_admitted(Identity("gateway", "g1"), KEY)
    trust.check_admitted(Identity("node", "anything"), KEY)
    with pytest.raises(Refused):
        trust.check_admitted(Identity("gateway", "g2"), KEY)


def _spoiled_issuers(authority: Authority) -> dict[str, str]:
    leaf = authority.leaf("gateway", "g1", ca=True)
    return {
        "issuer of another root": der_text(Authority().issuers["gateway"].certificate),
        "the root itself": der_text(authority.root.certificate),
        "a leaf": der_text(authority.leaf("gateway", "g1").certificate),
        "a leaf that may issue": der_text(leaf.certificate),
        "an issuer below an issuer": der_text(
            authority.new_issuer("gateway", by=authority.issuers["gateway"]).certificate
        ),
    }


@pytest.mark.misuse
@pytest.mark.parametrize("kind", list(_spoiled_issuers(Authority())))
def test_an_intermediate_that_the_root_did_not_make_is_refused(
    authority: Authority, kind: str, ablation: Ablation
) -> None:
    issuers: Any = {"gateway": (_spoiled_issuers(authority)[kind],)}
    with pytest.raises(Refused):
        trust_of(bundle(authority, issuers=issuers))
    with ablation("the check of each issuer") as attack:
        attack.without("embrasure.net.trustbundle.check_issuer")
        attack.succeeded(trust_of(bundle(authority, issuers=issuers)).issuers_of("gateway"))


def test_an_issuer_that_is_no_certificate_is_refused(authority: Authority) -> None:
    issuers: Any = {"gateway": ("AAAA",)}
    with pytest.raises(Refused):
        trust_of(bundle(authority, issuers=issuers))


def test_a_swap_raises_the_epoch_and_the_same_trust_does_not(authority: Authority) -> None:
    issuer = authority.issuers["gateway"].certificate
    holder = TrustHolder(first_trust(DOMAIN, "gateway", (issuer,)))
    holder.trust.check_admitted(Identity("gateway", "any"), KEY)
    holder.swap(first_trust(DOMAIN, "gateway", (issuer,)))
    assert holder.state[1] == 1
    holder.swap(trust_of(bundle(authority)))
    assert holder.state[1] == 2


def test_an_empty_trust_set_has_no_pem() -> None:
    with pytest.raises(Refused, match="at least one issuer"):
        Trust(DOMAIN, {}, None).pem(["gateway"])


async def _async_handler(request: object, context: object) -> None:
    """Do nothing."""


def _blocking_handler(request: object, context: object) -> None:
    """Do nothing, and block."""


GATEWAY: frozenset[Role] = frozenset({"gateway"})


@pytest.mark.parametrize(
    ("table", "served"),
    [
        ({}, [("/s/A", _async_handler)]),
        ({"/s/A": GATEWAY, "/s/B": GATEWAY}, [("/s/A", _async_handler)]),
        ({"/s/A": GATEWAY}, [("/s/A", _blocking_handler)]),
        ({"/s/A": frozenset()}, [("/s/A", _async_handler)]),
    ],
)
def test_a_listener_that_differs_from_its_table_does_not_start(table: Any, served: Any) -> None:
    check_table({"/s/A": GATEWAY}, [("/s/A", _async_handler)])
    with pytest.raises(Refused) as caught:
        check_table(table, served)
    assert caught.value.reason == "table"


def naive(auth: dict[str, list[bytes]]) -> Identity:
    """Read a name as gRPC's `peer_identities()` does: the first thing that could be one."""
    keys = ("peer_uri", "peer_spiffe_id", "x509_common_name")
    found = next(value for key in keys for value in auth.get(key, []))
    return parse_uri(found.decode(), domain=DOMAIN)


@pytest.mark.misuse
@pytest.mark.parametrize(
    "auth",
    [
        {"peer_uri": [b"spiffe://fleet.example/gateway/g1"] * 2},
        {"peer_uri": [b"spiffe://fleet.example/gateway/g1"], "peer_email": [b"a@b"]},
        {"peer_uri": [b"spiffe://fleet.example/gateway/g1"], "peer_ip": [b"127.0.0.1"]},
        {"peer_spiffe_id": [b"spiffe://fleet.example/gateway/g1"]},
        {"x509_common_name": [b"spiffe://fleet.example/gateway/g1"]},
    ],
)
def test_an_identity_is_exactly_one_uri(auth: Any, ablation: Ablation) -> None:
    with pytest.raises(Refused):
        peer_identity(auth, domain=DOMAIN)
    with ablation("one URI and no other name") as attack:
        attack.succeeded(naive(auth) == Identity("gateway", "g1"))


@pytest.mark.parametrize("auth", [{}, {"peer_uri": ["spiffe://fleet.example/gateway/gä".encode()]}])
def test_no_name_is_no_identity(auth: Any) -> None:
    with pytest.raises(Refused):
        peer_identity(auth, domain=DOMAIN)


def test_a_typed_error_fits_into_the_details_of_a_call() -> None:
    error = Refused("x" * 500, expected="y" * 300, got="ü" * 5000, hint="z" * 300)
    code, details = status_of(error)
    assert details.isascii()
    assert len(details) <= MAX_DETAILS
    assert isinstance(error, EmbrasureError)
    assert code.name == "FAILED_PRECONDITION"


def test_load_der_takes_one_certificate_and_nothing_behind_it(authority: Authority) -> None:
    text = der_text(authority.root.certificate)
    assert load_der(text, what="root") == authority.root.certificate
    with pytest.raises(Refused):
        load_der(text[:-8] + "AAAAAAAA" + "AAAA", what="root")
