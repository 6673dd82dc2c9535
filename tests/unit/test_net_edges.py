"""The edges of the decision code in `embrasure.net`: branches that no attack elsewhere takes."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from embrasure import limits
from embrasure.clock import now
from embrasure.errors import Denied, EmbrasureError, Refused, Unavailable
from embrasure.net.authorize import Authorize, Peers, peer_chain
from embrasure.net.certificates import load_certificates
from embrasure.net.denials import TlsDenials, key_digest
from embrasure.net.identity import Identity
from embrasure.net.post import (
    MAX_FRAME,
    PostHeader,
    check_post_body,
    frame_post,
    post_path,
    split_post,
)
from embrasure.net.profile import check_leaf
from embrasure.net.status import error_of
from embrasure.net.trustbundle import TrustHolder, check_issuer, trust_of
from embrasure.trust.directory import TlsBundle
from tests.ablation import Ablation
from tests.integration.test_net_https import fetch, mirror_that
from tests.simulate.authority import CLIENT, SERVER, Authority, der_text, key_usage, new_key
from tests.simulate.badserver import says
from tests.simulate.listener import METHODS, listening, trust_from

STATUS = "/embrasure.v1.Node/Status"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def auth_of(pem: bytes, name: str = "g1", **changes: bytes) -> dict[str, list[bytes]]:
    """Return what gRPC tells of a gateway's connection."""
    fields = {
        "transport_security_type": b"ssl",
        "ssl_tls_version": b"TLSv1.3",
        "ssl_negotiated_key_exchange_group": b"X25519MLKEM768",
        "ssl_session_reused": b"false",
        "peer_uri": f"spiffe://fleet.example/gateway/{name}".encode(),
        "x509_pem_cert": pem,
        "x509_pem_cert_chain": pem,
        **changes,
    }
    return {key: [value] for key, value in fields.items()}


def test_a_connection_is_told_by_all_that_grpc_says_of_it(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embrasure.net.authorize._VERDICTS", 1)
    peers = Peers(TrustHolder(trust_from(authority)))
    one, two = authority.leaf("gateway", "g1").pem, authority.leaf("gateway", "g2").pem
    for _ in range(2):
        assert peers.identify(auth_of(one)) == Identity("gateway", "g1")
        assert peers.identify(auth_of(two, "g2")) == Identity("gateway", "g2")
    assert len(peers._verdicts) == 1
    for auth, reason in (
        (auth_of(one, ssl_tls_version=b"TLSv1.2"), "transport"),
        (auth_of(one, transport_security_type=b"insecure"), "transport"),
        (auth_of(one, ssl_negotiated_key_exchange_group=b"X25519"), "transport"),
        (auth_of(one, ssl_session_reused=b"true"), "resumed"),
        (auth_of(b"garbage"), "certificate"),
        (auth_of(two), "identity"),  # the name of one, the certificate of the other
    ):
        with pytest.raises(Refused) as caught:
            peers.identify(auth)
        assert caught.value.reason == reason


def test_a_chain_begins_with_the_leaf_and_names_it_once(authority: Authority) -> None:
    leaf, issuer = authority.leaf("gateway", "g1"), authority.issuers["gateway"]
    whole = auth_of(leaf.pem, x509_pem_cert_chain=leaf.pem + issuer.pem)
    assert peer_chain(whole) == [leaf.certificate, issuer.certificate]


class Surprise:
    """Says who a peer is by falling over."""

    def identify(self, auth: object) -> Identity:
        raise RuntimeError("nobody expected this")


def test_a_surprise_while_a_peer_is_checked_lets_nobody_in() -> None:
    guard = Authorize({STATUS: frozenset({"gateway"})}, Surprise())
    context = SimpleNamespace(auth_context=dict, peer=lambda: "ipv4:127.0.0.1:1")
    assert guard.allowed(STATUS, cast("Any", context)) is None


class Known:
    """Says that every peer is this one."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity

    def identify(self, auth: object) -> Identity:
        return self.identity


@pytest.mark.misuse
@pytest.mark.parametrize("role", ["node", "operator", "mirror", "letterbox", "gateway-admin"])
def test_a_role_that_the_table_does_not_name_may_not_call(role: Any, ablation: Ablation) -> None:
    # Whatever TLS let in: the table is a guard of its own.
    context = cast("Any", SimpleNamespace(auth_context=dict, peer=lambda: "ipv4:127.0.0.1:1"))
    peers = Known(Identity(role, "x1"))
    guard = Authorize({STATUS: frozenset({"gateway"})}, peers)
    assert guard.allowed(STATUS, context) is None
    assert guard.allowed("/embrasure.v1.Node/Nothing", context) is None
    with ablation("the table of roles") as attack:
        wide = Authorize({STATUS: frozenset({"gateway", role})}, peers)
        attack.succeeded(wide.allowed(STATUS, context) == Identity(role, "x1"))


def test_a_call_that_stays_allowed_is_checked_again_and_goes_on(authority: Authority) -> None:
    async def work() -> None:
        async with listening(authority, recheck_s=0.02) as listener:
            listener.handlers.wait = asyncio.Event()
            call = listener.call("unary_unary", authority.leaf("gateway", "g1"))
            running = asyncio.create_task(call)
            await asyncio.sleep(0.3)
            listener.handlers.wait.set()
            assert await running

    assert METHODS["unary_unary"] == STATUS
    asyncio.run(work())


# --- certificates ------------------------------------------------------------------------------


def test_bytes_in_the_form_of_a_certificate_that_are_none_are_refused() -> None:
    text = base64.encodebytes(b"not a certificate at all").decode()
    pem = f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n"
    with pytest.raises(Refused, match="certificates that parse"):
        load_certificates(pem.encode(), what="issuer")


def test_a_leaf_that_may_sign_certificates_is_refused(authority: Authority) -> None:
    issuer, honest = authority.issuers["node"], authority.leaf("node", "n1").certificate
    key = new_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(honest.not_valid_before_utc)
        .not_valid_after(honest.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(key_usage(signs=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([SERVER]), critical=False)
    )
    names = honest.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    leaf = builder.add_extension(names, critical=True).sign(issuer.key, hashes.SHA256())
    with pytest.raises(Refused, match="as its profile says"):
        check_leaf(
            leaf, role="node", issuers=[issuer.certificate], domain=authority.domain, at=now()
        )


def test_a_certificate_without_constraints_is_no_issuer(authority: Authority) -> None:
    key = new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bare")])
    bare = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now())
        .not_valid_after(now() + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(Refused, match="constraints that can be read"):
        check_issuer(bare, roots=[authority.root.certificate], name="node")


def test_an_issuer_has_a_p256_key_and_a_denied_one_is_no_issuer(authority: Authority) -> None:
    good = authority.issuers["node"].certificate
    trust = trust_from(authority)
    assert trust.issuers_of("node") == (good,)
    denied = dataclasses.replace(trust, denied=TlsDenials(issuers=frozenset({key_digest(good)})))
    assert denied.issuers_of("node") == () and denied.listed_issuers("node") == (good,)
    key, above = ec.generate_private_key(ec.SECP384R1()), authority.root
    other = (
        x509.CertificateBuilder()
        .subject_name(good.subject)
        .issuer_name(above.certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now())
        .not_valid_after(now() + timedelta(days=1))
        .add_extension(x509.BasicConstraints(True, 0), critical=True)
        .add_extension(key_usage(signs=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([SERVER]), critical=False)
        .sign(above.key, hashes.SHA256())
    )
    with pytest.raises(Refused, match="a P-256 key"):
        check_issuer(other, roots=[above.certificate], name="node")


@pytest.mark.misuse
def test_an_issuer_of_clients_is_no_issuer_of_nodes(
    authority: Authority, ablation: Ablation
) -> None:
    wrong, roots = authority.issuers["gateway"].certificate, [authority.root.certificate]
    check_issuer(wrong, roots=roots, name="gateway")
    with pytest.raises(Refused, match="the one usage of its leaves"):
        check_issuer(wrong, roots=roots, name="node")
    with ablation("the usage of an issuer") as attack:
        attack.without("embrasure.net.trustbundle.usage_of", lambda _: CLIENT)
        check_issuer(wrong, roots=roots, name="node")
        members = authority.tls_members() | {"issuers": {"node": (der_text(wrong),)}}
        bundle = TlsBundle(v=1, type="tls", root="0" * 64, env="dev", gateways=(), **members)  # type: ignore[arg-type]  # a table of members
        attack.succeeded(trust_of(bundle).issuers_of("node") == (wrong,))


# --- errors across the wire --------------------------------------------------------------------


def problem(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    empty = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, empty, empty, details)


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (grpc.RpcError("odd"), Unavailable),
        (problem(grpc.StatusCode.DEADLINE_EXCEEDED, "late"), Unavailable),
        (problem(grpc.StatusCode.PERMISSION_DENIED, "denied"), Denied),
        (problem(grpc.StatusCode.UNKNOWN, "odd"), Refused),
        (problem(grpc.StatusCode.FAILED_PRECONDITION, "{not json"), Refused),
        (problem(grpc.StatusCode.FAILED_PRECONDITION, '{"thing":"x"}'), Refused),
        (problem(grpc.StatusCode.FAILED_PRECONDITION, "x" * 5000), Refused),
    ],
)
def test_what_a_call_ended_with_is_told_as_one_of_our_errors(
    told: grpc.RpcError, kind: type[EmbrasureError]
) -> None:
    assert type(error_of(told, thing="call")) is kind


def test_a_field_of_another_type_makes_details_no_error_of_ours() -> None:
    fields = '{"thing":1,"expected":"","got":"","untouched":"","hint":"","reason":""}'
    found = error_of(problem(grpc.StatusCode.NOT_FOUND, fields), thing="call")
    assert type(found) is Refused and found.thing == "call"


# --- posts, and answers of a mirror ------------------------------------------------------------


def test_a_frame_is_bounded_and_its_body_is_the_named_one() -> None:
    assert split_post(frame_post(b"header", b"body")) == (b"header", b"body")
    assert post_path("a" * 64, 3) == f"v1/post/{'a' * 64}/3"
    for frame in (bytes(MAX_FRAME + 1), b"", b"\x00", b"\x00\x00body"):
        with pytest.raises(Refused):
            split_post(frame)
    header = PostHeader(
        v=1, type="post", node="n-" + "a" * 26, epoch=1, rseq=1, length=4, sha256="0" * 64
    )
    for body in (b"body", b"longer"):
        with pytest.raises(Refused, match="the body its header names"):
            check_post_body(header, body)


def test_a_server_without_ranges_is_read_up_to_the_offset_in_pieces(
    authority: Authority, tmp_path: Path
) -> None:
    body = bytes(2 * limits.BUFFER_BYTES) + b"end"
    answer = says(f"200 OK\nContent-Length: {len(body)}", body)
    with mirror_that(answer, authority, tmp_path) as source:
        assert fetch(source, offset=2 * limits.BUFFER_BYTES) == b"end"
        with pytest.raises(Refused) as caught:
            fetch(source, offset=len(body) + 1)
        assert caught.value.reason == "bad-offset"
