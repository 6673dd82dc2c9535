"""The readers of pki take any bytes and raise nothing but our own errors."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from embrasure.errors import Refused
from embrasure.trust.canonical import canonical
from pki import keyfile, people, store

SEALED = keyfile.seal(
    keyfile.generate("ecdsa-p256"),
    b"correct horse battery",
    purpose="ca",
    label="node",
    salt=b"s" * 16,
)
FIELDS = json.loads(SEALED)
WILD = st.none() | st.integers() | st.text(max_size=40) | st.lists(st.integers(), max_size=2)


@given(st.binary(max_size=2048))
def test_random_bytes_are_refused_by_every_reader(raw: bytes) -> None:
    for reader in (keyfile.parse, people.parse_public, lambda r: store.parse_metadata(r, "root")):
        try:
            reader(raw)
        except Refused:
            continue
        raise AssertionError("random bytes were taken")


@given(st.sampled_from(sorted(FIELDS)), WILD)
def test_a_key_file_with_any_field_changed_never_opens_as_another(name: str, value: object) -> None:
    raw = canonical({**FIELDS, name: value})
    try:
        found = keyfile.parse(raw)
        keyfile.public_key(keyfile.header_of(raw))
    except Refused:
        return
    assert found.keyid == FIELDS["keyid"]


@given(st.binary(max_size=64), st.integers(0, len(SEALED)))
def test_a_key_file_with_bytes_cut_out_is_refused(piece: bytes, start: int) -> None:
    raw = SEALED[:start] + piece + SEALED[start + len(piece) + 1 :]
    try:
        found = keyfile.header_of(raw)
    except Refused:
        return
    # What still parses is still bound: the box was sealed over the true header.
    assert found.label and keyfile.parse(raw).box


@given(st.sampled_from(["root", "targets", "fleet-prod"]), st.recursive(
    WILD, lambda inner: st.dictionaries(st.sampled_from(["signed", "signatures", "_type", "version",
    "expires", "spec_version", "keys", "roles", "targets", "delegations"]), inner, max_size=6),
    max_leaves=20))  # fmt: skip
def test_almost_metadata_is_refused(role: str, value: object) -> None:
    try:
        found = store.parse_metadata(json.dumps(value).encode(), role)
    except Refused:
        return
    assert found.signed.type in ("root", "targets")
