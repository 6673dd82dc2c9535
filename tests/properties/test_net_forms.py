"""Outside bytes of `embrasure.net`: what is written reads back, all else is one kind of refusal."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import cast

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from embrasure import limits
from embrasure.clock import now
from embrasure.errors import EmbrasureError, Misuse, Refused
from embrasure.net.certificates import load_certificates, load_der, load_key
from embrasure.net.identity import PROFILES, Identity, Role, parse_uri, uri
from embrasure.net.post import (
    check_post_body,
    frame_post,
    parse_post_header,
    post_key,
    post_signer,
    seal_post,
    split_post,
)
from embrasure.net.profile import check_leaf
from embrasure.net.status import _read, status_of
from embrasure.net.trustbundle import check_issuer
from embrasure.trust.receipt import key_id
from tests.simulate.authority import Authority

NODE = "n-" + "a" * 26
KEY = SigningKey(bytes(32))
PUBLIC = bytes(KEY.verify_key).hex()
KEY_ID = key_id(bytes(KEY.verify_key))
NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
DOMAINS = st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){0,3}", fullmatch=True)
ROLES = st.sampled_from(sorted(PROFILES))


@given(ROLES, NAMES, DOMAINS)
def test_every_identity_reads_back(role: str, name: str, domain: str) -> None:
    text = uri(cast(Role, role), name, domain)
    assert parse_uri(text, domain=domain) == Identity(cast(Role, role), name)
    with pytest.raises(Refused):
        parse_uri(text, domain=f"{domain}x")


@given(st.text(max_size=80) | st.from_regex(r"spiffe://[^/]*/[^/]*/.*"))
def test_any_other_text_is_refused_and_never_normalised(text: str) -> None:
    try:
        found = parse_uri(text, domain="d.example")
    except Refused:
        return
    assert uri(found.role, found.name, "d.example") == text


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_random_bytes_are_no_key_and_no_certificate(raw: bytes) -> None:
    for read in (
        lambda: load_certificates(raw, what="x"),
        lambda: load_key(raw, what="x"),
        lambda: load_der(raw.decode("latin-1"), what="x"),
    ):
        with pytest.raises(Refused):
            read()


AUTHORITY = Authority()
LEAF, LEAF_DOMAIN = AUTHORITY.leaf("node", "n1").certificate, AUTHORITY.domain
ISSUER = AUTHORITY.issuers["node"].certificate
DER = LEAF.public_bytes(Encoding.DER)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_one_changed_bit_of_a_certificate_is_one_kind_of_refusal(place: int, bit: int) -> None:
    der = bytearray(DER)
    der[place % len(der)] ^= 1 << bit
    issuers = [ISSUER]
    with pytest.raises(Refused):
        found = load_der(base64.b64encode(der).decode("ascii"), what="leaf")
        check_leaf(found, role="node", issuers=issuers, domain=LEAF_DOMAIN, at=now())
    with suppress(Refused):
        check_issuer(load_der(base64.b64encode(der).decode(), what="x"), roots=issuers, name="x")


def test_a_signature_that_leaves_bits_out_is_another_certificate() -> None:
    """Of every second signature the last bit is 0, so one bit may be left out of it."""
    leaf = LEAF
    while leaf.signature[-1] & 1:
        leaf = AUTHORITY.leaf("node", "n1").certificate
    der = bytearray(leaf.public_bytes(Encoding.DER))
    der[-len(leaf.signature) - 1] = 1
    found = load_der(base64.b64encode(der).decode("ascii"), what="leaf")
    assert found.signature == leaf.signature and found != leaf
    check_leaf(leaf, role="node", issuers=[ISSUER], domain=LEAF_DOMAIN, at=now())
    with pytest.raises(Refused, match="whole bytes"):
        check_leaf(found, role="node", issuers=[ISSUER], domain=LEAF_DOMAIN, at=now())


@given(st.binary(min_size=1, max_size=limits.POST_BYTES), st.integers(1, 2**53 - 1))
def test_a_post_reads_back(body: bytes, rseq: int) -> None:
    sealed = seal_post(body, node=NODE, epoch=1, rseq=rseq, signer=post_signer(KEY))
    raw, found = split_post(frame_post(sealed, body))
    header, key = parse_post_header(raw, {KEY_ID: post_key(PUBLIC)})
    check_post_body(header, found)
    assert (found, header.rseq, key) == (body, rseq, KEY_ID)


@given(st.binary(max_size=6000))
def test_random_bytes_are_no_post(frame: bytes) -> None:
    try:
        raw, body = split_post(frame)
        header, _ = parse_post_header(raw, {KEY_ID: post_key(PUBLIC)})
        check_post_body(header, body)
    except Refused:
        return
    raise AssertionError("random bytes were a signed post")


@given(st.binary(min_size=10, max_size=100), st.data())
def test_one_changed_byte_changes_nothing_or_ends_a_post(body: bytes, data: st.DataObject) -> None:
    sealed = seal_post(body, node=NODE, epoch=1, rseq=7, signer=post_signer(KEY))
    frame = bytearray(frame_post(sealed, body))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] ^= data.draw(st.integers(1, 255))
    try:
        raw, found = split_post(bytes(frame))
        header, _ = parse_post_header(raw, {KEY_ID: post_key(PUBLIC)})
        check_post_body(header, found)
    except Refused:
        return
    # Base64 has unused bits at the end of a signature: they carry nothing.
    assert (found, header.rseq, header.node) == (body, 7, NODE)


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=300))
def test_a_typed_error_travels_whole(thing: str, expected: str, got: str) -> None:
    error: EmbrasureError = Misuse(thing, expected=expected, got=got, reason="usage")
    _, details = status_of(error)
    found = _read(details)
    assert found is not None
    assert found["thing"] == error.thing
    assert found["got"] == error.got


@given(st.text(max_size=500) | st.just("{" * 4000) | st.just('{"thing":1}'))
def test_random_details_are_no_typed_error(details: str) -> None:
    assert _read(details) is None
