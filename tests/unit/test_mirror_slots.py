"""A letterbox: slots are written once, bounded for each key and in all, freed by one alone."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from embrasure import limits
from embrasure.clock import now
from embrasure.errors import EmbrasureError, Refused, Unavailable
from embrasure.net.post import MAX_FRAME, frame_post, post_signer, seal_post
from embrasure.trust import layout
from embrasure.trust.denied import DeniedSets
from embrasure.trust.receipt import key_id
from mirror.post import Box, Directory
from mirror.slots import Slot, Slots
from tests.ablation import Ablation
from tests.simulate.nodes import SimNode
from tests.simulate.repository import SimRepository

KEY = "a" * 64


class Hand:
    """A steady clock that a test moves."""

    def __init__(self) -> None:
        self.moment = 0.0

    def __call__(self) -> float:
        return self.moment


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def slots(tmp_path: Path, hand: Hand) -> Slots:
    return Slots(tmp_path / "posts", steady=hand)


def frame(body: bytes = b"sealed", header: bytes = b"header") -> bytes:
    return frame_post(header, body)


def fill(slots: Slots, hand: Hand, key: str, count: int, body: bytes = b"sealed") -> None:
    for number in range(1, count + 1):
        hand.moment += limits.LETTERBOX_REFILL_SECONDS
        slots.put(Slot(key, number), frame(body))


def test_posts_come_out_in_the_order_in_which_they_came(slots: Slots) -> None:
    for key, number in (("b" * 64, 1), (KEY, 9), (KEY, 2)):
        assert slots.put(Slot(key, number), frame(str(number).encode()))
    found = slots.oldest(10)
    assert [slot for slot, _ in found] == [Slot("b" * 64, 1), Slot(KEY, 9), Slot(KEY, 2)]
    assert slots.oldest(1) == found[:1]


def test_a_post_stays_until_it_is_freed(slots: Slots) -> None:
    slots.put(Slot(KEY, 1), frame())
    assert len(slots.oldest(10)) == len(slots.oldest(10)) == 1
    assert slots.free([Slot(KEY, 1), Slot(KEY, 2), Slot("c" * 64, 1)]) == 1
    assert slots.oldest(10) == []
    assert slots.free([Slot(KEY, 1)]) == 0


def test_a_repeat_of_the_same_body_is_fine_and_costs_nothing(slots: Slots) -> None:
    assert slots.put(Slot(KEY, 1), frame())
    for _ in range(100):
        assert not slots.put(Slot(KEY, 1), frame(header=b"signed anew"))
    assert len(slots.oldest(10)) == 1


@pytest.mark.misuse
def test_a_filled_slot_is_final(slots: Slots, ablation: Ablation) -> None:
    slots.put(Slot(KEY, 1), frame(b"first"))
    with pytest.raises(Refused) as caught:
        slots.put(Slot(KEY, 1), frame(b"second"))
    assert caught.value.reason == "filled"
    assert slots.oldest(1)[0][1] == frame(b"first")
    with ablation("the comparison with what lies there") as attack:
        # The node would believe that its second post arrived.
        attack.without("mirror.slots.check_same_body")
        attack.succeeded(not slots.put(Slot(KEY, 1), frame(b"second")))


@pytest.mark.misuse
def test_a_key_has_a_bounded_number_of_slots_and_others_are_not_hit(
    slots: Slots, hand: Hand, ablation: Ablation
) -> None:
    fill(slots, hand, KEY, limits.LETTERBOX_SLOTS_PER_KEY)
    hand.moment += 1000
    with pytest.raises(Unavailable) as caught:
        slots.put(Slot(KEY, 1000), frame())
    assert caught.value.reason == "busy"
    assert slots.put(Slot("b" * 64, 1), frame())
    slots.free([Slot(KEY, 1)])
    assert slots.put(Slot(KEY, 1000), frame())
    with ablation("the bound of slots") as attack:
        attack.without("embrasure.limits.LETTERBOX_SLOTS_PER_KEY", 10**9)
        attack.succeeded(slots.put(Slot(KEY, 1001), frame()))


@pytest.mark.misuse
def test_a_key_has_a_bounded_number_of_bytes(slots: Slots, hand: Hand, ablation: Ablation) -> None:
    body = bytes(limits.POST_BYTES)
    most = limits.LETTERBOX_BYTES_PER_KEY // len(frame(body))
    fill(slots, hand, KEY, most, body)
    hand.moment += 1000
    with pytest.raises(Unavailable, match="bytes of this key"):
        slots.put(Slot(KEY, 1000), frame(body))
    with ablation("the bound of bytes") as attack:
        attack.without("embrasure.limits.LETTERBOX_BYTES_PER_KEY", 10**9)
        attack.succeeded(slots.put(Slot(KEY, 1000), frame(body)))


@pytest.mark.misuse
def test_all_keys_together_are_bounded(
    slots: Slots, hand: Hand, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    monkeypatch.setattr(limits, "LETTERBOX_BYTES", 3 * len(frame()))
    for number in range(3):
        slots.put(Slot(f"{number}" * 64, 1), frame())
    with pytest.raises(Unavailable, match="uncollected bytes"):
        slots.put(Slot("9" * 64, 1), frame())
    with ablation("the bound of all bytes") as attack:
        attack.without("embrasure.limits.LETTERBOX_BYTES", 10**9)
        attack.succeeded(slots.put(Slot("9" * 64, 1), frame()))


def test_a_nearly_full_box_cries(
    slots: Slots, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "LETTERBOX_BYTES", 2 * len(frame()))
    slots.put(Slot(KEY, 1), frame())
    assert not caplog.records
    slots.put(Slot(KEY, 2), frame())
    assert "nearly full" in caplog.text


@pytest.mark.misuse
def test_a_flood_is_slowed_to_the_refill(slots: Slots, hand: Hand, ablation: Ablation) -> None:
    for number in range(1, limits.LETTERBOX_BURST + 1):
        slots.put(Slot(KEY, number), frame())
    with pytest.raises(Unavailable, match="posts at once"):
        slots.put(Slot(KEY, 99), frame())
    hand.moment += limits.LETTERBOX_REFILL_SECONDS
    assert slots.put(Slot(KEY, 99), frame())
    with pytest.raises(Unavailable):
        slots.put(Slot(KEY, 100), frame())
    with ablation("the pace") as attack:
        attack.without("mirror.slots.Bucket.take", lambda _: True)
        flood = [slots.put(Slot("c" * 64, number), frame()) for number in range(1, 60)]
        attack.succeeded(all(flood))


def test_a_restart_finds_every_post_in_its_order(tmp_path: Path, hand: Hand) -> None:
    before = Slots(tmp_path / "posts", steady=hand)
    for number in (3, 1, 2):
        before.put(Slot(KEY, number), frame(str(number).encode()))
        path = tmp_path / "posts" / KEY / str(number)
        os.utime(path, ns=(number, 10 - number))
    (tmp_path / "posts" / KEY / ".4.0123456789abcdef.new").write_bytes(b"torn")
    (tmp_path / "posts" / "junk").mkdir()
    after = Slots(tmp_path / "posts", steady=hand)
    assert [slot.rseq for slot, _ in after.oldest(10)] == [3, 2, 1]
    with pytest.raises(Refused):
        after.put(Slot(KEY, 3), frame(b"other"))


def test_what_nobody_collects_goes_after_its_time(tmp_path: Path, hand: Hand) -> None:
    moment = now()
    slots = Slots(tmp_path / "posts", clock=lambda: moment, steady=hand)
    slots.put(Slot(KEY, 1), frame())
    assert slots.sweep() == 0
    moment += timedelta(seconds=limits.LETTERBOX_KEEP_SECONDS + 60)
    assert slots.sweep() == 1
    assert slots.oldest(1) == []


# What a post must be before it comes near a slot.


@pytest.fixture
def node() -> SimNode:
    repo = SimRepository()
    return repo.add_node(mode="pull")


def directory_of(*nodes: SimNode) -> Directory:
    repo = SimRepository()
    for node in nodes:
        repo.add_node(node)
    repo.publish()
    path = layout.shard_path("dev", "00")
    file = layout.target_file(path, repo.roles["fleet-dev"].targets[path].hashes["sha256"])
    found = Directory()
    found.take({path: repo.files[file], layout.policy_path("dev"): b"not a shard"})
    return found


def post_of(
    node: SimNode,
    rseq: int = 1,
    *,
    body: bytes = b"sealed",
    name: str = "",
    epoch: int = 1,
    key: SigningKey | None = None,
) -> bytes:
    header = seal_post(
        body,
        node=name or node.id,
        epoch=epoch,
        rseq=rseq,
        signer=post_signer(key or node.signing),
    )
    return frame_post(header, body)


def slot_of(node: SimNode, rseq: int = 1) -> Slot:
    return Slot(key_id(bytes(node.signing.verify_key)), rseq)


def test_a_node_of_the_directory_posts(slots: Slots, node: SimNode) -> None:
    box = Box(directory_of(node), slots)
    assert box.take(slot_of(node), post_of(node))
    assert not box.take(slot_of(node), post_of(node))


@pytest.mark.misuse
def test_what_is_not_a_post_of_that_node_and_slot_is_refused(
    slots: Slots, node: SimNode, ablation: Ablation
) -> None:
    box, stranger = Box(directory_of(node), slots), SigningKey.generate()
    other = SimNode(id="n-" + "b" * 26, env="dev", labels={}, mode="pull")
    both = Box(directory_of(node, other), slots)
    cases: list[tuple[Box, Slot, bytes, str]] = [
        (box, Slot("0" * 64, 1), post_of(node), "unknown-key"),
        (box, Slot(key_id(bytes(stranger.verify_key)), 1), post_of(node, key=stranger),
         "unknown-key"),
        (box, slot_of(node), post_of(node, key=stranger), "bad-signature"),
        (box, slot_of(node, 2), post_of(node, 1), "bad-signature"),
        (box, slot_of(node), post_of(node, epoch=2), "bad-signature"),
        (box, slot_of(node), post_of(node, name=other.id), "bad-signature"),
        (both, slot_of(other), post_of(node), "bad-signature"),
        (box, slot_of(node), post_of(node)[:-1], "bad-hash"),
        (box, slot_of(node), post_of(node) + b"x", "bad-hash"),
        (box, slot_of(node), post_of(node) + bytes(limits.POST_BYTES), "limit"),
        (box, slot_of(node), bytes(MAX_FRAME + 1), "limit"),
        (box, slot_of(node), b"", "bad-schema"),
        (box, slot_of(node), b"\x00\x01", "limit"),
        (box, slot_of(node), b"\x00\x05{\"a\"}x", "bad-schema"),
    ]  # fmt: skip
    for place, slot, raw, reason in cases:
        with pytest.raises(EmbrasureError) as caught:
            place.take(slot, raw)
        assert caught.value.reason == reason
    assert slots.oldest(10) == []
    with ablation("the check of a post") as attack:
        # The shelf below takes any frame for any slot.
        attack.succeeded(slots.put(slot_of(node), post_of(node, key=stranger)))


@pytest.mark.misuse
def test_a_strangers_posts_use_up_nobodys_quota(
    slots: Slots, node: SimNode, ablation: Ablation
) -> None:
    box, stranger = Box(directory_of(node), slots), SigningKey.generate()
    for rseq in range(1, 50):
        with pytest.raises(Refused):
            box.take(slot_of(node, rseq), post_of(node, rseq, key=stranger))
    for rseq in range(1, limits.LETTERBOX_BURST + 1):
        assert box.take(slot_of(node, rseq), post_of(node, rseq))
    with ablation("the signature before the quota") as attack:
        mine = SimNode(id="n-" + "c" * 26, env="dev", labels={}, mode="pull")
        for rseq in range(1, limits.LETTERBOX_BURST + 1):
            slots.put(slot_of(mine, rseq), post_of(mine, rseq, key=stranger))
        with pytest.raises(Unavailable) as used_up:
            Box(directory_of(mine), slots).take(slot_of(mine, 99), post_of(mine, 99))
        attack.succeeded(used_up.value)


@pytest.mark.misuse
def test_a_retired_node_posts_no_more(slots: Slots, node: SimNode, ablation: Ablation) -> None:
    repo = SimRepository()
    repo.add_node(node)
    node.state = "retired"
    repo.refresh_directory()
    repo.publish()
    path = layout.shard_path("dev", "00")
    file = layout.target_file(path, repo.roles["fleet-dev"].targets[path].hashes["sha256"])
    directory = directory_of(node)
    directory.take({path: repo.files[file]})
    with pytest.raises(Refused):
        Box(directory, slots).take(slot_of(node), post_of(node))
    with ablation("the newest directory") as attack:
        node.state = "active"
        attack.succeeded(Box(directory_of(node), slots).take(slot_of(node), post_of(node)))


@pytest.mark.misuse
@pytest.mark.parametrize("what", ["node", "key"])
def test_a_denied_node_posts_no_more(
    slots: Slots, node: SimNode, what: str, ablation: Ablation
) -> None:
    nothing = frozenset[str]()
    denied = {
        "node": DeniedSets(nothing, nothing, nothing, frozenset({node.id})),
        "key": DeniedSets(nothing, nothing, frozenset({slot_of(node).key}), nothing),
    }[what]
    directory = directory_of(node)
    directory.deny(denied)
    with pytest.raises(Refused) as caught:
        Box(directory, slots).take(slot_of(node), post_of(node))
    assert caught.value.reason == "unknown-key"
    with ablation("the denial") as attack:
        directory.deny(DeniedSets(*[nothing] * 4))
        attack.succeeded(Box(directory, slots).take(slot_of(node), post_of(node)))


def test_a_directory_that_does_not_parse_changes_nothing(slots: Slots, node: SimNode) -> None:
    directory = directory_of(node)
    with pytest.raises(Refused):
        directory.take({layout.shard_path("dev", "00"): b"{}"})
    assert Box(directory, slots).take(slot_of(node), post_of(node))
