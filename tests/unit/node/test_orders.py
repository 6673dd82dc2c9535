"""An order can only say "now": to this node, once, under a number that only rises."""

from __future__ import annotations

from datetime import timedelta

import pytest
from securesystemslib.signer import CryptoSigner

from embrasure.clock import write_time
from embrasure.errors import Refused
from embrasure.trust.receipt import Kind
from node.accept import Answer
from tests.ablation import Ablation
from tests.simulate.installer import Confirms, SimInstaller, Told
from tests.simulate.sources import DeadSource


def give(bench: SimInstaller, envelope: bytes) -> Answer:
    return bench.acceptor.order(envelope, bench.source(), Confirms(bench))


def test_an_order_installs_and_its_nonce_is_in_the_receipts(bench: SimInstaller) -> None:
    bench.publish("1.0")
    answer = give(bench, bench.order(oseq=1))
    assert (answer.kind, answer.reason, len(answer.receipts)) == ("committed", "", 2)
    assert bench.ask() == "1.0"
    assert [(r.kind, r.nonce.hex()) for r in bench.told()] == [
        (Kind.HEALTHY, f"{1:032x}"), (Kind.SOAKED, f"{1:032x}"),
    ]  # fmt: skip


def test_the_same_order_again_is_answered_with_its_receipts_and_switches_nothing(
    bench: SimInstaller,
) -> None:
    bench.publish("1.0")
    envelope = bench.order(oseq=1)
    first = give(bench, envelope)
    running = bench.supervisor.running(bench.app)
    again = bench.acceptor.order(envelope, DeadSource(), Told())
    assert (again.kind, again.reason, again.receipts) == ("none", "repeat", first.receipts)
    assert bench.supervisor.running(bench.app) == running
    # A new order for what is committed is answered the same way.
    later = give(bench, bench.order(oseq=3))
    assert (later.kind, later.reason, later.receipts) == ("none", "done", first.receipts)


@pytest.mark.misuse
def test_a_lower_number_is_refused_and_the_floor_is_named(
    bench: SimInstaller, ablation: Ablation
) -> None:
    bench.publish("1.0")
    give(bench, bench.order(oseq=7))
    bench.publish("2.0")
    # The confirmation has used up a number, too.
    for oseq in (6, 7, 8):
        answer = give(bench, bench.order(oseq=oseq))
        assert (answer.kind, answer.reason, answer.floor) == ("refuse", "replay", 8)
    assert bench.ask() == "1.0"
    bench.restart()
    assert give(bench, bench.order(oseq=7)).reason == "replay"
    with ablation("the check of an order") as attack:
        attack.without("node.orderbook.check_order", lambda *a, **k: None)
        attack.succeeded(give(bench, bench.order(oseq=6)).kind == "committed")


@pytest.mark.misuse
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"node": "n-" + "a" * 26}, "not-mine"),
        ({"env": "prod"}, "not-mine"),
        ({"root": "0" * 64}, "not-mine"),
        ({"node_epoch": 2}, "not-mine"),
        ({"issued": -600, "expires": -300}, "stale"),
        ({"issued": 600, "expires": 800}, "stale"),
        ({"issued": 0, "expires": 301}, "stale"),
    ],
)
def test_an_order_for_another_or_of_another_time_is_refused(
    bench: SimInstaller,
    ablation: Ablation,
    changes: dict[str, object],
    reason: str,
) -> None:
    bench.publish("1.0")
    for name in ("issued", "expires"):
        if isinstance(changes.get(name), int):
            at = bench.clock() + timedelta(seconds=int(str(changes[name])))
            changes = {**changes, name: write_time(at)}
    envelope = bench.order(oseq=1, **changes)
    answer = give(bench, envelope)
    assert (answer.kind, answer.reason) == ("refuse", reason)
    assert bench.supervisor.running(bench.app) is None
    with ablation("the check of an order") as attack:
        attack.without("node.orderbook.check_order", lambda *a, **k: None)
        attack.succeeded(give(bench, envelope).kind == "committed")


@pytest.mark.misuse
def test_an_order_of_a_strange_key_is_refused(bench: SimInstaller, ablation: Ablation) -> None:
    bench.publish("1.0")
    stranger = CryptoSigner.generate_ed25519()
    bench.repo.sign_with["gates-dev"], honest = [stranger], bench.repo.sign_with["gates-dev"]
    envelope = bench.order(oseq=1)
    bench.repo.sign_with["gates-dev"] = honest
    with pytest.raises(Refused) as caught:
        give(bench, envelope)
    assert caught.value.reason == "bad-signature"
    key = {stranger.public_key.keyid: stranger.public_key}
    with ablation("the keys of the gates role") as attack:
        attack.without("node.judge.Judge.gate_keys", lambda self, view: key)
        attack.succeeded(give(bench, envelope).kind == "committed")


def test_an_order_by_a_key_that_is_new_is_obeyed_after_one_refresh(bench: SimInstaller) -> None:
    bench.publish("1.0")
    give(bench, bench.order(oseq=1))
    bench.repo.replace_keys("gates-dev", [CryptoSigner.generate_ed25519()])
    bench.publish("2.0")
    # Numbers belong to a key: a stolen gateway cannot use up those of the next one.
    assert give(bench, bench.order(oseq=1)).kind == "committed"


def test_an_order_for_another_plan_than_the_published_one_waits(bench: SimInstaller) -> None:
    bench.publish("1.0")
    answer = give(bench, bench.order(oseq=1, plan="0" * 64))
    assert (answer.kind, answer.reason) == ("wait", "plan")
    assert bench.supervisor.running(bench.app) is None


def test_an_order_for_an_app_that_the_owner_does_not_know_is_held(bench: SimInstaller) -> None:
    bench.publish("1.0")
    answer = give(bench, bench.order(oseq=1, app="other"))
    assert (answer.kind, answer.reason) == ("hold", "not-declared")


@pytest.mark.parametrize("envelope", [b"", b"{}", b"x" * 5000, b'{"payload":1}'])
def test_an_envelope_that_is_none_is_refused(bench: SimInstaller, envelope: bytes) -> None:
    with pytest.raises(Refused):
        give(bench, envelope)


def test_an_order_widens_no_step_of_the_decision(bench: SimInstaller) -> None:
    plan = bench.publish("1.0")
    bench.repo.set_gate(plan, state="paused")
    bench.repo.publish()
    answer = give(bench, bench.order(oseq=1))
    assert (answer.kind, answer.reason) == ("wait", "paused")
