from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from embrasure.errors import Refused
from embrasure.trust.receipt import (
    Kind,
    Outcome,
    Ran,
    Reason,
    Receipt,
    node_id,
    parse_receipt,
    raw_node,
    read_record,
    sign_receipt,
)
from tests.ablation import Ablation

KEY = SigningKey(b"k" * 32)
PUBLIC = bytes(KEY.verify_key)


def raw(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


def unsigned(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1)


RECEIPTS = st.builds(
    Receipt,
    scope=raw(16), seq=unsigned(64), plan=raw(32), manifest=raw(32),
    node=raw(16).map(node_id), previous=raw(32), body=raw(32), boot=raw(16), nonce=raw(16),
    rseq=unsigned(64), finished=unsigned(64), took_s=unsigned(32), soaked_s=unsigned(32),
    epoch=unsigned(32), gseq=unsigned(32), wave=unsigned(8), attempt=unsigned(8),
    kind=st.sampled_from(Kind), outcome=st.sampled_from(Outcome), ran=st.sampled_from(Ran),
    isolation=unsigned(8), reason=st.sampled_from(Reason),
)  # fmt: skip


@given(RECEIPTS)
def test_what_was_signed_is_read_back(receipt: Receipt) -> None:
    signed = sign_receipt(receipt, KEY)
    assert len(signed) == 320
    assert parse_receipt(signed, PUBLIC) == receipt


@given(RECEIPTS, st.integers(0, 319), st.integers(1, 255))
def test_any_changed_byte_is_refused(receipt: Receipt, at: int, change: int) -> None:
    signed = bytearray(sign_receipt(receipt, KEY))
    signed[at] ^= change
    with pytest.raises(Refused):
        parse_receipt(bytes(signed), PUBLIC)


@given(st.binary(max_size=400))
def test_random_bytes_are_no_receipt(data: bytes) -> None:
    with pytest.raises(Refused):
        parse_receipt(data, PUBLIC)


@given(raw(256))
def test_random_records_raise_only_refused(record: bytes) -> None:
    with pytest.raises(Refused):
        read_record(record)


@given(raw(16))
def test_node_ids_are_the_base32_of_16_bytes(data: bytes) -> None:
    assert raw_node(node_id(data)) == data
    assert len(node_id(data)) == 28


@pytest.mark.misuse
def test_another_nodes_key_signs_no_receipt_of_mine(ablation: Ablation) -> None:
    receipt = Receipt(
        scope=b"s" * 16, seq=1, plan=b"p" * 32, manifest=b"m" * 32, node=node_id(b"n" * 16),
        previous=bytes(32), body=bytes(32), boot=bytes(16), nonce=bytes(16), rseq=1, finished=1,
        took_s=1, soaked_s=1, epoch=1, gseq=1, wave=0, attempt=1, kind=Kind.SOAKED,
        outcome=Outcome.OK, ran=Ran.MAIN, isolation=0, reason=Reason.NONE,
    )  # fmt: skip
    forged = sign_receipt(receipt, SigningKey(b"x" * 32))
    with pytest.raises(Refused, match="signature"):
        parse_receipt(forged, PUBLIC)
    with ablation("the signature of the receipt") as attack:
        attack.without("embrasure.trust.receipt.VerifyKey.verify", lambda *_: b"")
        attack.succeeded(parse_receipt(forged, PUBLIC) == receipt)
