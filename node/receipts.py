"""The node's signed word on what happened: numbered, chained, on disk before it is handed out.

Reporting never changes what is installed, and a receipt nobody takes is never a reason to stop.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from nacl.bindings import sodium_pad
from nacl.public import PublicKey, SealedBox

from embrasure import limits
from embrasure.clock import Clock
from embrasure.errors import EmbrasureError, NotFound
from embrasure.fs import Folder
from embrasure.trust import canonical
from embrasure.trust.documents import Base64, Document, Positive, read, write
from embrasure.trust.receipt import (
    Kind,
    Outcome,
    Ran,
    Reason,
    Receipt,
    chain_hash,
    scope_of,
    sign_receipt,
)
from node import believed
from node.deadline import boot_id
from node.identity import Identity
from node.journal import Journal
from node.output import cleaned
from node.paths import Paths

PAD_BYTES = limits.KIB  # lengths of bodies come in these steps, so that they tell less
_NAME = re.compile(r"([0-9]{16})-([0-9a-f]{16})-([a-z0-9-]{1,48})\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What is to be told. manifest: what runs now, "" for nothing; log: raw output;
    collect: the key that bodies are sealed to, "" when no policy named one.
    """

    app: str
    plan: str
    seq: int
    wave: int
    attempt: int
    gseq: int
    nonce: str
    collect: str
    kind: Kind
    outcome: Outcome
    ran: Ran
    reason: Reason
    manifest: str
    took_s: int
    soaked_s: int
    state: str
    detail: str
    log: bytes


class _Stored(Document, frozen=True, kw_only=True):
    v: Literal[1]
    rseq: Positive
    collect: str
    signed: Base64
    body: Base64


@dataclass(frozen=True, slots=True)
class Posted:
    """A receipt: 320 signed bytes, its sealed body, and the key that a post is sealed to."""

    rseq: int
    signed: bytes
    body: bytes
    collect_key: str


def seal_body(event: Event, *, tls: str = "") -> bytes:
    """Return the sealed body: readable by the holder of the collect key only.

    tls: SHA-256 of the `tls.json` that this node believes, which its receipt says so too
    """
    if not event.collect:
        return b""
    log, length = event.log, limits.LOG_TAIL_BYTES
    while True:
        text = canonical.canonical(
            {
                "v": 1,
                "state": event.state,
                "reason": event.detail,
                "log": cleaned(log, limit=length),
                "tls": tls,
            }
        )
        if len(text) <= limits.RECEIPT_BODY_BYTES:
            break
        length -= 256  # escapes in JSON can double it
    box = SealedBox(PublicKey(bytes.fromhex(event.collect)))
    return bytes(box.encrypt(sodium_pad(text, PAD_BYTES)))


class Outbox:
    """Receipts on disk: `outbox/` waits for somebody to take them, `sent/` remembers the last."""

    def __init__(self, paths: Paths) -> None:
        self._outbox = paths.outbox
        self._sent = paths.sent

    def pending(self, limit: int) -> list[Posted]:
        """Return the oldest receipts that nobody took yet, oldest first."""
        return list(_entries(self._outbox, _names(self._outbox)[:limit]))

    def waiting(self) -> int:
        """Return how many receipts nobody took yet."""
        return len(_names(self._outbox))

    def acknowledge(self, *rseqs: int) -> None:
        """The receipts are taken; a second call does nothing."""
        wanted = frozenset(rseqs)
        with Folder.open(self._outbox) as outbox, Folder.open(self._sent) as sent:
            names = [name for name in outbox.list() if _NAME.fullmatch(name)]
            if taken := [name for name in names if int(name[:16]) in wanted]:
                for name in taken:
                    outbox.rename(name, sent, name, replace=True)
                sent.fsync()
                outbox.fsync()
            kept = [name for name in sent.list() if _NAME.fullmatch(name)]
            for name in kept[: -limits.RECEIPTS_KEPT]:
                sent.unlink(name, missing_ok=True)

    def of_plan(self, app: str, plan: str, *, taken: bool = True) -> tuple[Posted, ...]:
        """Return the receipts about this plan that are still here, oldest first.

        taken: also those that somebody took
        """
        found: list[Posted] = []
        for folder in (self._outbox, self._sent) if taken else (self._outbox,):
            names = [n for n in _names(folder) if n[17:33] == plan[:16] and n[34:-5] == app]
            found += _entries(folder, names)
        return tuple(sorted(found, key=lambda one: one.rseq))

    def head(self) -> tuple[int, bytes]:
        """Return the number and hash of the last receipt, (0, zeros) when there is none."""
        both = [(folder, name) for folder in (self._outbox, self._sent) for name in _names(folder)]
        if not both:
            return 0, bytes(32)
        folder, name = max(both, key=lambda one: one[1])
        last = list(_entries(folder, [name]))
        # One that cannot be read breaks the chain visibly; its number is never used twice.
        return int(name[:16]), chain_hash(last[0].signed) if last else bytes(32)

    def put(self, stored: Posted, *, app: str, plan: str) -> None:
        """The receipt is on disk; a full outbox first drops its oldest."""
        names = _names(self._outbox)
        with Folder.open(self._outbox) as folder:
            for name in names[: max(0, len(names) + 1 - limits.OUTBOX_RECEIPTS)]:
                folder.unlink(name, missing_ok=True)
            entry = _Stored(
                v=1,
                rseq=stored.rseq,
                collect=stored.collect_key,
                signed=base64.b64encode(stored.signed).decode("ascii"),
                body=base64.b64encode(stored.body).decode("ascii"),
            )
            folder.create(f"{stored.rseq:016d}-{plan[:16]}-{app}.json", write(entry))


class Receipts:
    """Makes receipts. One writer at a time in one process: the node's apply."""

    def __init__(
        self, paths: Paths, identity: Identity, *, clock: Clock, isolation: int = 0
    ) -> None:
        """isolation: the level that every receipt says, 0 in development."""
        self._isolation = isolation
        self.outbox = Outbox(paths)
        self._paths = paths
        self._journal = Journal(paths)
        self._identity = identity
        self._clock = clock
        self._mutex = threading.Lock()
        self._head: tuple[int, bytes] | None = None  # of the last one that was made here

    @property
    def public(self) -> bytes:
        """The raw public key that verifies them."""
        return bytes(self._identity.receipt_key.verify_key)

    def emit(self, event: Event) -> Posted:
        """Return the next receipt of the chain, which is on disk."""
        body = seal_body(event, tls=believed.bundle_digest(self._paths))
        with self._mutex:
            last, previous = self.head()
            receipt = self._receipt(event, rseq=last + 1, previous=previous, body=body)
            signed = sign_receipt(receipt, self._identity.receipt_key)
            posted = Posted(last + 1, signed, body, event.collect)
            self._head = None  # an error may come behind its name: then the disk knows
            self.outbox.put(posted, app=event.app, plan=event.plan)
            self._head = posted.rseq, chain_hash(signed)
            return posted

    def head(self) -> tuple[int, bytes]:
        """Return number and hash of the last receipt.

        When the newest files were lost, the journal still knows a number: one that was handed out
        once is never given to another receipt, which the gateway would have to drop.
        """
        if self._head is not None:
            return self._head
        last, previous = self.outbox.head()
        known = max((max(one.since, one.final) for one in self._journal.records()), default=0)
        return (last, previous) if last >= known else (known, bytes(32))

    def _receipt(self, event: Event, *, rseq: int, previous: bytes, body: bytes) -> Receipt:
        identity = self._identity
        return Receipt(
            scope=scope_of(root=identity.root_id, env=identity.env, app=event.app),
            seq=event.seq,
            plan=bytes.fromhex(event.plan),
            manifest=bytes.fromhex(event.manifest) if event.manifest else bytes(32),
            node=identity.node,
            previous=previous,
            body=bytes.fromhex(canonical.sha256_hex(body)),
            boot=bytes.fromhex(boot_id()),
            nonce=bytes.fromhex(event.nonce),
            rseq=rseq,
            finished=int(self._clock().timestamp()),
            took_s=max(0, event.took_s),
            soaked_s=max(0, event.soaked_s),
            epoch=identity.epoch,
            gseq=event.gseq,
            wave=event.wave,
            attempt=event.attempt,
            kind=event.kind,
            outcome=event.outcome,
            ran=event.ran,
            isolation=self._isolation,
            reason=event.reason,
        )


def _names(folder: Path) -> list[str]:
    with Folder.open(folder) as held:
        return [name for name in held.list() if _NAME.fullmatch(name)]


def _entries(folder: Path, names: list[str]) -> Iterator[Posted]:
    """Yield the receipts that can be read; one taken or damaged meanwhile is passed over."""
    if not names:
        return
    with Folder.open(folder) as held:
        for name in names:
            try:
                yield _parse_entry(held.read(name, limit=limits.RECEIPT_FILE_BYTES))
            except (NotFound, EmbrasureError, ValueError):
                continue


@lru_cache(maxsize=limits.RECORDS_KEPT)
def _parse_entry(raw: bytes) -> Posted:
    stored = read(raw, _Stored, limit=limits.RECEIPT_FILE_BYTES, document="receipt on disk")
    return Posted(
        stored.rseq,
        base64.b64decode(stored.signed),
        base64.b64decode(stored.body),
        stored.collect,
    )
