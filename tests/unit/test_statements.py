from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from embrasure.clock import write_time
from embrasure.errors import EmbrasureError, NotSupported, Refused
from embrasure.trust.canonical import canonical
from embrasure.trust.documents import write
from embrasure.trust.dsse import pae, seal, unseal
from embrasure.trust.order import Order, check_action, check_order, parse_order
from tests.ablation import Ablation

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
NODE = "n-" + "a" * 26
SIGNER = CryptoSigner.generate_ed25519()
OTHER = CryptoSigner.generate_ed25519()
KEYS = {SIGNER.public_key.keyid: SIGNER.public_key}


def order(**changes: object) -> Order:
    honest = Order(
        v=1, type="order", root="a" * 64, env="dev", node=NODE, node_epoch=1, app="shop",
        plan="b" * 64, gate="c" * 64, action="apply", tx=None, node_nonce=None, oseq=5,
        nonce="d" * 32, issued=write_time(NOW), expires=write_time(NOW + timedelta(seconds=300)),
    )  # fmt: skip
    return msgspec.structs.replace(honest, **changes)


def check(found: Order, **changes: object) -> str:
    facts: dict[str, object] = {
        "root": "a" * 64, "env": "dev", "node": NODE, "epoch": 1, "floor": 4, "now": NOW,
    }  # fmt: skip
    try:
        check_order(found, **{**facts, **changes})  # type: ignore[arg-type]  # by name
    except Refused as refusal:
        return refusal.reason
    return "ok"


def test_an_order_for_me_is_obeyed_once() -> None:
    assert check(order()) == "ok"
    assert check(order(), floor=5) == "replay"
    assert check(order(), floor=9) == "replay"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"node": "n-" + "b" * 26}, "not-mine"),  # P02
        ({"env": "prod"}, "not-mine"),  # P03
        ({"root": "0" * 64}, "not-mine"),  # P04
        ({"node_epoch": 2}, "not-mine"),
        ({"expires": write_time(NOW)}, "stale"),
        ({"expires": write_time(NOW + timedelta(seconds=301))}, "stale"),
        ({"issued": write_time(NOW + timedelta(seconds=301)),
          "expires": write_time(NOW + timedelta(seconds=400))}, "stale"),
    ],
)  # fmt: skip
def test_an_order_of_another_or_of_another_time_is_refused(
    changes: dict[str, object], reason: str
) -> None:
    assert check(order(**changes)) == reason


def test_an_order_of_one_kind_is_never_taken_for_the_other() -> None:
    check_action(order(), "apply")
    with pytest.raises(Refused) as found:
        check_action(order(), "confirm")
    assert found.value.reason == "bad-schema"


def test_an_order_without_a_rule_is_not_supported() -> None:
    with pytest.raises(NotSupported):
        parse_order(write(order(action="prefetch")))


TX, NONCE = {"tx": "d" * 32}, {"node_nonce": "e" * 64}


@pytest.mark.parametrize(
    "changes",
    [
        TX, NONCE, {**TX, **NONCE}, {"action": "confirm"}, {"action": "confirm", **TX},
        {"action": "confirm", **NONCE},
    ],
)  # fmt: skip
def test_an_order_names_a_wait_if_and_only_if_it_confirms_it(changes: dict[str, object]) -> None:
    with pytest.raises(Refused) as caught:
        parse_order(write(order(**changes)))
    assert caught.value.reason == "bad-schema"
    whole = order(action="confirm", **TX, **NONCE)
    assert parse_order(write(whole)) == whole


def test_an_order_without_a_gate_is_refused() -> None:
    with pytest.raises(Refused, match="gate"):
        parse_order(write(order(gate=None)))
    assert parse_order(write(order())) == order()


def test_an_envelope_opens_with_the_key_that_sealed_it() -> None:
    raw = seal("order", b"{}", SIGNER)
    assert unseal("order", raw, KEYS, limit=4096) == (b"{}", SIGNER.public_key.keyid)


def test_the_signed_bytes_are_those_of_the_dsse_specification() -> None:
    # protocol.md, PAE: lengths in ASCII decimal, separated by single spaces.
    kind = "application/vnd.embrasure.order.v1+json"
    assert pae("order", b"hello") == f"DSSEv1 {len(kind)} {kind} 5 hello".encode()


def tampered(**changes: object) -> bytes:
    whole = json.loads(seal("order", b"{}", SIGNER))
    return canonical({**whole, **changes})


@pytest.mark.misuse
@pytest.mark.parametrize(
    "raw",
    [
        tampered(payload=base64.b64encode(b"{ }").decode()),
        tampered(payloadType="application/vnd.embrasure.approval.v1+json"),
        tampered(signatures=[]),
        tampered(signatures=json.loads(seal("order", b"{}", SIGNER))["signatures"] * 2),
        seal("approval", b"{}", SIGNER),
        seal("order", b"{}", OTHER),
        tampered(extra=1),
    ],
    ids=["payload", "type", "no signature", "two", "other kind", "other key", "member"],
)
def test_any_other_envelope_is_refused(raw: bytes, ablation: Ablation) -> None:
    with pytest.raises(Refused):
        unseal("order", raw, KEYS, limit=4096)
    with ablation("the envelope") as attack:
        # Who takes the payload out of it takes any of these.
        attack.succeeded(base64.b64decode(json.loads(raw)["payload"]).startswith(b"{"))


@pytest.mark.misuse
def test_without_the_signature_check_a_changed_payload_would_pass(
    ablation: Ablation,
) -> None:
    raw = tampered(payload=base64.b64encode(b"evil").decode())
    with pytest.raises(Refused):
        unseal("order", raw, KEYS, limit=4096)
    with ablation("the signature") as attack:
        attack.without("securesystemslib.signer.SSlibKey.verify_signature", lambda *_: None)
        attack.succeeded(unseal("order", raw, KEYS, limit=4096)[0] == b"evil")


@given(st.binary(max_size=200))
def test_random_bytes_open_nothing(raw: bytes) -> None:
    with pytest.raises(EmbrasureError):
        unseal("order", raw, KEYS, limit=150)
    with pytest.raises(EmbrasureError):
        parse_order(raw)
