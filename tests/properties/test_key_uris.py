"""Signer URIs and key records: any text is read back as it was, or refused with our own errors."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from embrasure.errors import EmbrasureError, Refused
from embrasure.trust.canonical import canonical
from embrasure.trust.documents import write
from pki import keyrecords, keyuri, schemes
from pki.keyrecords import KeyRecord
from pki.keyuri import TokenUri

_KEY = schemes.public_of(schemes.generate("ecdsa-p256"))
RECORD = KeyRecord(
    v=1, type="key-record", uri="hsm:2?label=x", keyid=_KEY.keyid, scheme="ecdsa-p256",
    pub=schemes.written(_KEY)[1], purpose="security", label="alice", root="",
)  # fmt: skip
FIELDS = json.loads(write(RECORD))
PLAIN = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=["C", "Z"]))
WILD = st.none() | st.integers() | st.text(max_size=40) | st.lists(st.integers(), max_size=2)


@given(st.integers(1, 2**31 - 1), PLAIN, PLAIN, PLAIN)
def test_a_token_uri_is_read_back_as_it_was(number: int, label: str, module: str, pin: str) -> None:
    uri = TokenUri(number, label, module, pin)
    try:
        found = keyuri.parse_token(str(uri))
    except EmbrasureError:
        assert len(str(uri)) > 1024
    else:
        assert found == uri
        assert keyuri.parse_token(uri.plain) == TokenUri(number, label)


@given(st.text(max_size=80) | st.text("hsm:0123456789?label=&%pin-valuesource", max_size=80))
def test_any_text_is_a_uri_or_one_of_our_errors(text: str) -> None:
    for uri in (text, f"hsm:{text}", f"hsm:2?{text}", keyuri.as_uri(text)):
        for reader in (keyuri.backend_of, keyuri.parse_token, keyrecords.address):
            try:
                reader(uri)
            except EmbrasureError:
                continue


@given(st.sampled_from(sorted(FIELDS)), WILD)
def test_a_record_with_any_field_changed_is_of_the_same_key_or_refused(
    name: str, value: object
) -> None:
    try:
        found = keyrecords.parse_record(canonical({**FIELDS, name: value}))
    except EmbrasureError:
        return
    assert (found.keyid, found.pub) == (RECORD.keyid, RECORD.pub)


@given(st.binary(max_size=512))
def test_any_bytes_are_no_record(raw: bytes) -> None:
    try:
        keyrecords.parse_record(raw)
    except Refused:
        return
    raise AssertionError("random bytes were taken")


@given(st.sampled_from(schemes.SCHEMES), st.binary(max_size=2000))
def test_any_bytes_are_a_public_key_or_refused(scheme: schemes.Scheme, raw: bytes) -> None:
    try:
        found = schemes.decode_public(scheme, raw.hex(), schemes.key_id(scheme, raw.hex()))
    except Refused:
        return
    assert schemes.written(found) == (scheme, raw.hex())
