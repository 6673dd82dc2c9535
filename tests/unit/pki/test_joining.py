"""Join tokens: used once, by one node, in one hour, whatever a gateway between says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure import limits
from embrasure.errors import EmbrasureError, Misuse, Refused
from embrasure.net.certificates import load_certificates
from embrasure.trust import joining as form
from pki import enrol, inventory, joining
from pki.ca import pem
from pki.enrol import Checked
from pki.folder import TrustFolder
from pki.leaf import fresh_leaf
from tests.ablation import Ablation
from tests.simulate.ceremony import NewNode, source
from tests.simulate.joining import JoiningNode
from tests.unit.pki.conftest import AT

ENV = "prod"


class Desk:
    """A keyholder's tool at a time that the test sets."""

    def __init__(self, trust: TrustFolder, at: datetime) -> None:
        self.trust, self.at = trust, at

    def clock(self) -> datetime:
        return self.at

    def mint(self, number: int = 1, *, ttl_s: int = 3600) -> JoiningNode:
        node = NewNode(self.trust.root_id, number)
        made = joining.mint(self.trust, ENV, node.id, ttl_s=ttl_s, clock=self.clock)
        return JoiningNode(node, made.token, self.at)

    def accept(self, joiner: JoiningNode, *, mac: str | None = None, as_node: str = "") -> Checked:
        with self.trust.lock():
            return joining.accept(
                self.trust, ENV, as_node or joiner.node.id, joiner.statement,
                joiner.mac if mac is None else mac, clock=self.clock,
            )  # fmt: skip


@pytest.fixture
def desk(shop: TrustFolder, at: datetime) -> Desk:
    return Desk(shop, at)


def reason(desk: Desk, joiner: JoiningNode, **how: str) -> str:
    with pytest.raises(EmbrasureError) as told:
        desk.accept(joiner, **how)
    return told.value.reason


def test_the_right_answer_is_taken_and_the_token_is_gone(desk: Desk) -> None:
    joiner = desk.mint()
    assert [one.node for one in joining.waiting(desk.trust)] == [joiner.node.id]
    checked = desk.accept(joiner)
    assert checked.statement.node == joiner.node.id
    assert joining.waiting(desk.trust) == []
    kept = b"".join(path.read_bytes() for path in (desk.trust.path / "joins").iterdir())
    assert joiner.token.encode() not in kept
    # The same statement again, while signatures are gathered; no longer than a day.
    desk.at += timedelta(hours=23)
    assert desk.accept(joiner, mac="") == checked
    desk.at += timedelta(hours=1)
    assert reason(desk, joiner) == "lapsed"
    assert reason(desk, joiner) == "no-token"


def test_a_token_that_waits_is_in_the_inventory(desk: Desk) -> None:
    joiner = desk.mint()
    rows = {item.name: item for item in inventory.items(desk.trust.path) if item.kind == "token"}
    assert list(rows) == [joiner.node.id]
    assert f"pki join {joiner.node.id}" in rows[joiner.node.id].command
    desk.accept(joiner)
    assert not [one for one in inventory.items(desk.trust.path) if one.kind == "token"]


def test_of_a_token_only_the_mac_key_is_kept_in_private_files(desk: Desk) -> None:
    joiner = desk.mint()
    (path,) = (desk.trust.path / "joins").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert joiner.token.encode() not in path.read_bytes()
    # A later token for the node voids the earlier one.
    earlier = joiner.mac
    later = desk.mint()
    assert reason(desk, joiner, mac=earlier) == "bad-mac"
    assert desk.accept(later).statement.node == joiner.node.id


@pytest.mark.misuse
def test_a_token_is_used_once(desk: Desk, ablation: Ablation) -> None:
    joiner = desk.mint()
    desk.accept(joiner)
    # Whoever copied the token makes other keys and answers with them.
    thief = JoiningNode(NewNode(desk.trust.root_id, 1), joiner.token, desk.at)
    assert reason(desk, thief) == "no-token"
    with ablation("deleting the key on its first right answer") as attack:
        again = desk.mint()
        attack.without("pki.joining._drop")
        desk.accept(again)
        thief = JoiningNode(NewNode(desk.trust.root_id, 1), again.token, desk.at)
        attack.succeeded(desk.accept(thief).statement.receipt.key == thief.node.receipt_public)


@pytest.mark.misuse
def test_of_two_that_race_one_wins(desk: Desk, ablation: Ablation) -> None:
    def race(hold: Callable[[], AbstractContextManager[None]]) -> list[str]:
        token = desk.mint().token
        both = [JoiningNode(NewNode(desk.trust.root_id, 1), token, desk.at) for _ in range(2)]
        wins: list[str] = []
        gate = threading.Barrier(2)

        def work(one: JoiningNode) -> None:
            gate.wait()
            try:
                with hold():
                    joining.accept(desk.trust, ENV, one.node.id, one.statement, one.mac,
                                   clock=desk.clock)  # fmt: skip
            except EmbrasureError:
                return
            wins.append(one.node.receipt_public)

        threads = [threading.Thread(target=work, args=(one,)) for one in both]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return wins

    assert all(len(race(desk.trust.lock)) == 1 for _ in range(10))
    with ablation("the folder's lock") as attack:
        honest = enrol.check_statement

        def slow(*arguments: object) -> object:
            time.sleep(0.05)
            return honest(*arguments)  # type: ignore[arg-type]  # passed through

        # Only the time between look and deletion is made longer; the guard left out is the lock.
        attack.without("pki.enrol.check_statement", slow)
        attack.succeeded(len(race(nullcontext)) == 2)


@pytest.mark.misuse
def test_a_token_is_good_for_an_hour(desk: Desk, ablation: Ablation) -> None:
    joiner = desk.mint()
    desk.at += timedelta(seconds=limits.JOIN_SECONDS)
    assert reason(desk, joiner) == "token-expired"
    desk.at -= timedelta(seconds=limits.JOIN_SECONDS)
    assert reason(desk, joiner) == "no-token"
    with pytest.raises(Misuse):
        desk.mint(ttl_s=limits.JOIN_SECONDS + 1)
    with ablation("the token's time") as attack:
        late = desk.mint()
        desk.at += timedelta(seconds=limits.JOIN_SECONDS)
        attack.without("pki.joining.read_time", lambda text: desk.at + timedelta(seconds=1))
        attack.succeeded(desk.accept(late))


@pytest.mark.misuse
def test_a_token_is_for_one_node_id_and_environment(desk: Desk, ablation: Ablation) -> None:
    joiner, other = desk.mint(1), NewNode(desk.trust.root_id, 2)
    desk.mint(2)
    # The token of node 1, given to node 2.
    stray = JoiningNode(other, joiner.token, desk.at)
    assert reason(desk, stray) == "bad-mac"
    # Its statement, brought as the answer of node 1.
    assert reason(desk, stray, as_node=joiner.node.id) == "bad-mac"
    with ablation("node and environment in the derived key") as attack:
        attack.without("pki.joining.joining.join_key", unbound)
        attack.without("tests.simulate.joining.join_key", unbound)
        token = desk.mint(1).token
        joining.mint(desk.trust, ENV, other.id, ttl_s=60, clock=desk.clock)
        attack.without("embrasure.trust.joining.new_token", lambda: token)
        joining.mint(desk.trust, ENV, other.id, ttl_s=60, clock=desk.clock)
        attack.succeeded(desk.accept(JoiningNode(other, token, desk.at)))


def unbound(token: str, *, env: str, node: str) -> bytes:
    return REAL(token, env="", node="")


REAL = form.join_key


@pytest.mark.misuse
def test_a_statement_with_other_keys_has_no_mac(desk: Desk, ablation: Ablation) -> None:
    joiner = desk.mint()
    # The gateway keeps the MAC and brings keys of its own.
    swapped = JoiningNode(NewNode(desk.trust.root_id, 1), joiner.token, desk.at)
    assert reason(desk, swapped, mac=joiner.mac) == "bad-mac"
    assert desk.accept(joiner).statement.node == joiner.node.id
    with ablation("the MAC over the whole statement") as attack:
        joiner = desk.mint()
        attack.without("embrasure.trust.joining.is_mac_of", lambda *_: True)
        checked = desk.accept(swapped, mac=joiner.mac)
        attack.succeeded(checked.statement.receipt.key == swapped.node.receipt_public)


@pytest.mark.misuse
def test_five_wrong_answers_end_a_token(desk: Desk, ablation: Ablation) -> None:
    joiner = desk.mint()
    for _ in range(limits.JOIN_TRIES):
        assert reason(desk, joiner, mac="0" * 64) == "bad-mac"
    assert reason(desk, joiner) == "no-token"
    with ablation("counting wrong answers") as attack:
        joiner = desk.mint()
        attack.without("pki.joining._one_try_less", lambda *_: Refused("x", expected="", got=""))
        for _ in range(100):
            with pytest.raises(Refused):
                desk.accept(joiner, mac="0" * 64)
        attack.succeeded(desk.accept(joiner))


def test_a_token_for_nothing_of_this_fleet_is_not_minted(desk: Desk) -> None:
    for env, node in (("test", ""), ("prod", "n-1"), ("PROD", "")):
        with pytest.raises(EmbrasureError):
            joining.mint(desk.trust, env, node, ttl_s=60, clock=desk.clock)
    assert joining.mint(desk.trust, ENV, "", ttl_s=60, clock=desk.clock).node.startswith("n-")


@given(st.text(max_size=60))
def test_text_of_another_form_is_no_token(text: str) -> None:
    with pytest.raises(Refused) as told:
        form.join_key(text, env="prod", node="n-" + "a" * 26)
    assert (told.value.reason == "bad-token" and text not in str(told.value)) or len(text) < 5


@pytest.fixture(scope="module")
def stated(second: Path) -> tuple[TrustFolder, bytes]:
    trust = TrustFolder.open(second)
    return trust, NewNode(trust.root_id, 1).envelope(AT)


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_statement_with_one_byte_changed_is_refused_or_says_the_same(
    stated: tuple[TrustFolder, bytes], place: int, change: int
) -> None:
    trust, raw = stated
    changed = bytearray(raw)
    changed[place % len(raw)] ^= change
    try:
        found = enrol.check_statement(bytes(changed), trust)
    except EmbrasureError:
        return
    # The last bits of base64 text may differ; what was signed may not.
    assert found == enrol.check_statement(raw, trust)


@given(st.binary(max_size=400))
def test_no_bytes_are_a_statement(stated: tuple[TrustFolder, bytes], raw: bytes) -> None:
    with pytest.raises(EmbrasureError):
        enrol.check_statement(raw, stated[0])


@given(st.binary(max_size=400))
def test_no_bytes_are_a_challenge_a_proof_or_an_answer(raw: bytes) -> None:
    for parse in (form.parse_challenge, form.parse_proof, form.parse_answering):
        with pytest.raises(EmbrasureError):
            parse(raw)


@given(st.binary(max_size=64), st.text(max_size=70))
def test_only_the_very_mac_is_one(statement: bytes, mac: str) -> None:
    key = b"k" * 32
    assert form.is_mac_of(key, statement, form.mac_of(key, statement))
    assert not form.is_mac_of(key, statement, mac)


# --- possession ---------------------------------------------------------------------------------


class Meeting:
    """A node whose token was right, a challenge, and the gateway between."""

    def __init__(self, desk: Desk, chains: tuple[bytes, bytes]) -> None:
        self.desk, self.joiner = desk, desk.mint()
        self.checked = desk.accept(self.joiner)
        self.chain, self.other_chain = chains
        self.gateway = load_certificates(self.chain, what="x")[0]
        self.asked = joining.challenge(desk.trust, self.checked)

    def check(self, proof: bytes) -> bool:
        joining.check_proof(
            proof, self.asked, self.checked, statement=self.joiner.statement, gateway=self.gateway
        )
        return True


@pytest.fixture(scope="module")
def chains(second: Path) -> tuple[bytes, bytes]:
    """Chains of two gateways of the fleet; only the first is listed."""
    issuer = TrustFolder.open(second).issuer("gateway", source())
    made = [fresh_leaf(issuer, f"gateway/{name}", lambda: AT)[1] for name in ("g1", "g2")]
    return made[0], made[1]


@pytest.fixture
def meeting(desk: Desk, chains: tuple[bytes, bytes]) -> Meeting:
    return Meeting(desk, chains)


def test_the_node_that_has_both_keys_proves_it(meeting: Meeting) -> None:
    assert meeting.check(meeting.joiner.proof(meeting.asked.challenge, meeting.gateway))


@pytest.mark.misuse
@pytest.mark.parametrize(
    "lie",
    [
        {"nonce": "0" * 64}, {"opened": "0" * 64}, {"gateway": "0" * 64}, {"statement": "0" * 64},
        {"epoch": 2}, {"env": "test"}, {"root": "0" * 64}, {"node": "n-" + "b" * 26},
    ],
)  # fmt: skip
def test_a_proof_of_anything_else_is_refused(
    lie: dict[str, object], meeting: Meeting, ablation: Ablation
) -> None:
    proof = meeting.joiner.proof(meeting.asked.challenge, meeting.gateway, **lie)
    with pytest.raises(Refused) as told:
        meeting.check(proof)
    assert told.value.reason == "bad-proof"
    with ablation("comparing the proof with what was asked") as attack:
        attack.without("pki.joining.compared")
        attack.succeeded(meeting.check(proof))


@pytest.mark.misuse
def test_a_proof_by_another_receipt_key_is_refused(meeting: Meeting, ablation: Ablation) -> None:
    thief = JoiningNode(
        NewNode(meeting.desk.trust.root_id, 1), meeting.joiner.token, meeting.joiner.at
    )
    thief.node.seal, thief.statement = meeting.joiner.node.seal, meeting.joiner.statement
    proof = thief.proof(meeting.asked.challenge, meeting.gateway)
    with pytest.raises(Refused) as told:
        meeting.check(proof)
    assert told.value.reason == "bad-signature"
    with ablation("the receipt key of the statement") as attack:
        attack.without("pki.enrol.receipt_key", lambda _: thief.node.signer.public_key)
        attack.succeeded(meeting.check(proof))


@pytest.mark.misuse
def test_only_a_gateway_of_this_fleet_stands_between(
    meeting: Meeting, at: datetime, ablation: Ablation
) -> None:
    trust = meeting.desk.trust
    assert joining.check_gateway(trust, ENV, meeting.chain, at=at) == meeting.gateway
    stranger = pem(trust.certificate("gateway"))
    for chain in (meeting.other_chain, stranger):
        with pytest.raises(Refused):
            joining.check_gateway(trust, ENV, chain, at=at)
    with ablation("the profile and the list of gateways") as attack:
        attack.without("pki.joining.check_leaf", lambda *_, **__: FirstGateway())
        attack.succeeded(joining.check_gateway(trust, ENV, stranger, at=at))


class FirstGateway:
    name = "g1"


def test_another_certificate_at_the_address_is_not_the_statements(
    meeting: Meeting, at: datetime
) -> None:
    own = pem(meeting.joiner.node.made[0])
    joining.check_shown(meeting.checked, own)
    false = pem(NewNode(meeting.desk.trust.root_id, 1).boot(at))
    for leaf in (false, own + false):
        with pytest.raises(Refused) as told:
            joining.check_shown(meeting.checked, leaf)
        assert told.value.reason == "boot-certificate"
