"""Whatever bytes come as a sealed file: they are refused with a typed error, or open as sealed."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure.errors import Refused
from embrasure.secret.keys import OpeningKey
from embrasure.secret.sealed import RECOVERY, Me, info_of, open_sealed, parse_sealed
from embrasure.trust.canonical import canonical
from pki.recipients import Recipients
from pki.sealing import seal

NODE = "n-" + "a" * 26
KEYS = {NODE: OpeningKey.generate("x25519"), RECOVERY: OpeningKey.generate()}
TO = Recipients(
    "0" * 64, "prod", "shop", tuple((name, key.public(epoch=1)) for name, key in KEYS.items())
)
RAW = seal(b"plain", name="db", version=1, to=TO)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)


@given(st.binary(max_size=300))
def test_noise_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused):
        parse_sealed(raw)


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_one_changed_byte_never_opens(place: int, flip: int) -> None:
    raw = bytearray(RAW)
    raw[place] ^= flip
    # The other recipient's stanza may be damaged without harm to this one.
    other = RAW.rindex(b'{"epoch"')
    if other <= place < RAW.index(b"]", other):
        return
    with pytest.raises(Refused):
        open_sealed(parse_sealed(bytes(raw)), Me(NODE, KEYS[NODE], 1))


@given(st.integers(0, len(RAW) - 1))
def test_a_cut_file_is_refused(length: int) -> None:
    with pytest.raises(Refused):
        parse_sealed(RAW[:length])


@given(
    st.sampled_from(sorted(json.loads(RAW))),
    st.one_of(st.none(), st.integers(), st.text(max_size=40), st.lists(st.integers(), max_size=3)),
)
def test_any_member_of_another_kind_is_refused(member: str, value: object) -> None:
    found = json.loads(RAW)
    if found[member] == value:
        return
    try:
        raw = canonical({**found, member: value})
    except Refused:
        return
    with pytest.raises(Refused):
        open_sealed(parse_sealed(raw), Me(NODE, KEYS[NODE], 1))


@given(NAMES, NAMES, st.integers(1, 2**53 - 1), st.integers(1, 2**53 - 1))
def test_two_contexts_never_encode_alike(one: str, two: str, version: int, epoch: int) -> None:
    head = parse_sealed(RAW).head

    def info(name: str, number: int, at: int) -> bytes:
        changed = msgspec.structs.replace(head, name=name, version=number)
        return info_of(changed, recipient=NODE, epoch=at, payload=b"p")

    same = (one, version, epoch) == (two, epoch, version)
    assert (info(one, version, epoch) == info(two, epoch, version)) == same


@given(st.binary(min_size=1, max_size=2000))
def test_what_is_sealed_opens(plain: bytes) -> None:
    raw = seal(plain, name="db", version=1, to=TO)
    assert open_sealed(parse_sealed(raw), Me(NODE, KEYS[NODE], 1)) == plain
