"""Whatever comes, breaks off, comes again and crashes: a blob that is there is the right one."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from embrasure.bundle.store import BlobStore
from embrasure.errors import Refused
from embrasure.fs import Folder
from node.early import Early
from tests.simulate.releases import make_release

BLOBS = [b"", b"a", b"bb" * 10, bytes(range(200))]
DIGESTS = [hashlib.sha256(blob).hexdigest() for blob in BLOBS]
WHICH = st.integers(0, len(BLOBS) - 1)
FILES = {"code/main": b"#!", **{f"config/{number}": blob for number, blob in enumerate(BLOBS)}}
RELEASE = make_release("shop", FILES).manifest


class StoreMachine(RuleBasedStateMachine):
    """States of a blob: nothing, some bytes, committed, durable; honest and hostile sources."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp())
        self.store = BlobStore(self.place)
        self.releases = Folder.open(self.place / ".releases", create=True)
        self.early = self._early()
        self.held = [b""] * len(BLOBS)  # bytes of partial files
        self.committed: set[int] = set()
        self.placed: set[int] = set()  # those of them that lie in the staging folder of a release
        self.durable: set[int] = set()

    def _early(self) -> Early:
        return Early(self.releases, tx="ab" * 16, manifest=RELEASE, blobs=self.store)

    @rule(which=WHICH, honest=st.booleans(), early=st.booleans())
    def put(self, which: int, honest: bool, early: bool) -> None:
        blob, at = BLOBS[which], self.early if early else None
        if which in self.committed or f"config/{which}" in self.early.done:
            return
        begun = DIGESTS[which] in self.store.begun()
        try:
            came = self.store.put(DIGESTS[which], blob if honest else blob + b"?", at=at)
        except Refused:
            assert not honest
            return
        assert honest
        assert came == (early or not begun)
        if came:
            self.committed.add(which)
            if early:
                self.placed.add(which)
            else:
                self.held[which] = blob

    @rule()
    def leave(self) -> None:
        """A transfer ends: what was placed and not synced is no blob."""
        self.early.__exit__(None, None, None)
        self.early = self._early()
        self.committed -= self.placed
        self.placed.clear()

    @rule(which=WHICH, count=st.integers(0, 250), honest=st.booleans(), commit=st.booleans())
    def transfer(self, which: int, count: int, honest: bool, commit: bool) -> None:
        blob = BLOBS[which]
        if which in self.committed:
            return
        with self.store.writer(DIGESTS[which], length=len(blob)) as writer:
            assert writer.offset == len(self.held[which])
            piece = blob[writer.offset :][:count] if honest else b"?" * count
            try:
                writer.write(piece)
                self.held[which] += piece
            except Refused as problem:
                assert problem.reason == "limit"
                assert len(self.held[which]) + len(piece) > len(blob)
            if commit:
                self._commit(which, writer)

    def _commit(self, which: int, writer: object) -> None:
        held, blob = self.held[which], BLOBS[which]
        try:
            writer.commit()  # type: ignore[attr-defined]  # a BlobWriter, named so by its store
            assert held == blob
            self.committed.add(which)
        except Refused as problem:
            if problem.reason == "bad-length":
                assert len(held) != len(blob)
            else:
                assert problem.reason == "bad-hash" and held != blob
                self.held[which] = b""

    @rule()
    def sync(self) -> None:
        self.store.sync()
        for which in self.committed - self.placed:
            self.held[which] = b""
        self.durable |= self.committed
        self.committed.clear()
        self.placed.clear()

    @rule()
    def crash(self) -> None:
        """The process ends; what was committed and not synced is a partial file again."""
        self.store.close()
        self.store = BlobStore(self.place)
        self.early = self._early()
        self.committed.clear()
        self.placed.clear()

    @rule(live=st.sets(WHICH))
    def sweep(self, live: set[int]) -> None:
        self.store.sweep({DIGESTS[which] for which in live})
        self.durable &= live
        for which in range(len(BLOBS)):
            if which not in live and which not in self.committed:
                self.held[which] = b""

    @rule(which=WHICH)
    def forget(self, which: int) -> None:
        self.store.forget(DIGESTS[which])
        self.durable.discard(which)
        self.committed.discard(which)
        self.held[which] = self.held[which] if which in self.placed else b""
        self.placed.discard(which)

    @invariant()
    def what_is_there_is_right(self) -> None:
        for which, (digest, blob) in enumerate(zip(DIGESTS, BLOBS, strict=True)):
            here = which in self.durable or which in self.committed
            assert self.store.has(digest, length=len(blob)) == here
            if here:
                assert b"".join(self.store.read(digest)) == blob
            named = self.place / digest[:2] / digest
            assert named.exists() == (which in self.durable)

    def teardown(self) -> None:
        self.early.__exit__(None, None, None)
        self.releases.close()
        self.store.close()
        shutil.rmtree(self.place)


StoreMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25)
TestStore = StoreMachine.TestCase
