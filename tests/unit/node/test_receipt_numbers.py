"""A receipt's number is given once, whatever the disk says while it is written."""

from __future__ import annotations

import errno

import pytest

from embrasure import fsops
from embrasure.errors import EmbrasureError
from embrasure.trust.receipt import Kind, Outcome, Ran, Reason, parse_receipt
from node.receipts import Event, Receipts
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller


def event(app: str) -> Event:
    return Event(
        app=app, plan="ab" * 32, seq=1, wave=1, attempt=1, gseq=1, nonce="cd" * 16, collect="",
        kind=Kind.HEALTHY, outcome=Outcome.OK, ran=Ran.MAIN, reason=Reason.NONE, manifest="",
        took_s=1, soaked_s=0, state="committed", detail="", log=b"",
    )  # fmt: skip


class LateError:
    """The disk says that it failed when a receipt has its name already, once."""

    def __init__(self) -> None:
        self.named = self.failed = False

    def before(self, op: fsops.Op) -> int | None:
        if op.call == "fsync" and self.named and not self.failed:
            self.failed = True
            raise OSError(errno.EIO, "late")
        return None

    def after(self, op: fsops.Op, result: int) -> None:
        self.named |= op.call in ("rename", "link") and op.new.endswith("-shop.json")


def numbers(receipts: Receipts) -> list[int]:
    """Return the numbers of all receipts on disk, after one that failed late and one more."""
    receipts.emit(event("web"))
    with fsops.watched(LateError()), pytest.raises(EmbrasureError):
        receipts.emit(event("shop"))
    receipts.emit(event("web"))
    return [parse_receipt(one.signed, receipts.public).rseq for one in receipts.outbox.pending(100)]


@pytest.mark.misuse
def test_a_number_is_never_given_twice(running: SimInstaller, ablation: Ablation) -> None:
    receipts = running.acceptor._ground.receipts
    given = numbers(receipts)
    assert sorted(set(given)) == sorted(given)
    with ablation("the look at the disk after an error") as attack:
        stale = receipts.head()
        real = Receipts.head
        attack.without("node.receipts.Receipts.head", lambda one: one._head or stale)
        emit, held = Receipts.emit, receipts

        def remembering(one: Receipts, told: Event) -> object:
            before = real(one)
            try:
                return emit(one, told)
            except EmbrasureError:
                one._head = before  # as if the error had meant that nothing is there
                raise

        attack.without("node.receipts.Receipts.emit", remembering)
        again = numbers(held)
        attack.succeeded(len(set(again)) < len(again))
