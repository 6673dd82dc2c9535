"""The blobs of a release come in: the small ones together where the source offers it, each other
one by itself; hashed before it counts, resumed at its byte.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from logging import getLogger

from embrasure import limits
from embrasure.bundle.pack import Cutter, Run, members, runs
from embrasure.errors import EmbrasureError, NotFound, Refused, Unavailable
from embrasure.fs import Folder
from embrasure.trust import layout
from embrasure.trust.pace import paced
from node.early import Early
from node.logs import FIELDS
from node.states import State
from node.transaction import To, Transaction, offer_of

LOG = getLogger(__name__)
_TELL_SECONDS = 0.25  # between two words on how far it is


def fetching(tx: Transaction) -> To:
    """Every blob is here, hashed on the way, and durable."""
    blobs, manifest = tx.ground.blobs, offer_of(tx).manifest
    wanted, found = manifest.blobs(), tx.found
    missing = blobs.missing(wanted) if found is None else found.missing
    tx.found = None  # for one look: they are about to come
    coming = _Coming(tx, sum(missing.values()))
    # What an earlier transfer has begun goes on at its byte.
    fresh = missing.keys() - blobs.begun()
    many = runs(members(wanted), fresh)
    if many and found is not None and "hardlink" in found.ways:
        with (
            Folder.open(tx.ground.paths.releases(tx.app)) as releases,
            Early(releases, tx=tx.record.tx, manifest=manifest, blobs=blobs) as early,
        ):
            coming.take_all(many, early)
            tx.placed = early.done
    else:
        coming.take_all(many)
    for digest, length in missing.items():
        if digest in tx.came or blobs.has(digest, length=length):
            continue
        if not coming.take(digest, length):
            coming.take(digest, length)
    blobs.sync()
    return To(State.VERIFIED)


class _Coming:
    """The blobs of one transaction on their way in."""

    def __init__(self, tx: Transaction, total: int) -> None:
        self._tx, self._total = tx, total
        self._blobs, self._source = tx.ground.blobs, offer_of(tx).source
        self._done, self._told = 0, time.monotonic()
        self._unnamed, self._named_at = 0, time.monotonic()

    def take_all(self, many: Iterable[Run], early: Early | None = None) -> None:
        """What the pack gives of its runs is durable and in the store, however they end.

        early: where files lie that may be their blobs
        """
        try:
            for run in many:
                if not self.take_run(run, early):
                    break
        except BaseException:
            with suppress(EmbrasureError):
                self._blobs.sync()
            raise
        self._blobs.sync()

    def _note(self, length: int) -> None:
        """What a crash could take of what lies early is little: the rest has its name."""
        self._unnamed += length
        if self._unnamed >= limits.UNNAMED_BYTES or (
            time.monotonic() - self._named_at >= limits.UNNAMED_SECONDS
        ):
            self._blobs.sync()
            self._unnamed, self._named_at = 0, time.monotonic()

    def take_run(self, run: Run, early: Early | None = None) -> bool:
        """Return whether all blobs of the run came; False: the pack is not asked for again.

        A pack only makes it faster. Whatever is wrong with one, what was verified stays, and the
        rest comes blob by blob, from where its bytes are asked for one name at a time.
        """
        path, cutter, before = offer_of(self._tx).pack, Cutter(run.blobs), self._done
        try:
            for piece in self._pieces(path, run.offset, run.length):
                for digest, data in cutter.cut(piece):
                    at = early if early is not None and digest in early else None
                    if self._blobs.put(digest, data, at=at):
                        self._tx.came.add(digest)
                        if at is not None:
                            self._note(len(data))
            if cutter.current is not None:
                raise Refused("pack", expected="all of it", got="less", reason="bad-length")
        except (NotFound, Refused, Unavailable) as problem:
            if problem.reason in ("stopping", "late"):
                raise
            came = self._done - before
            if came:
                app = {FIELDS: {"app": self._tx.app}}
                LOG.warning("bad-pack after %d bytes: %s", came, problem, extra=app)
            return False
        finally:
            self._keep(cutter)
        return True

    def _keep(self, cutter: Cutter) -> None:
        """What came of a blob that is not whole is where its own transfer goes on."""
        if cutter.current is None or not cutter.rest:
            return
        digest, length = cutter.current
        with self._blobs.writer(digest, length=length) as writer:
            if not writer.offset:
                writer.write(bytes(cutter.rest))

    def take(self, digest: str, length: int) -> bool:
        """Return whether the blob is here; False when what an earlier attempt had left was bad.

        A power cut may leave zeros where bytes were. They are dropped then, and that says nothing
        of the source: it is asked once more, for all of it. Raises Refused (`bad-hash`) after that.
        """
        with self._blobs.writer(digest, length=length) as writer:
            held = writer.offset
            self._done += held
            if held < length:
                path = layout.blob_file(digest)
                for piece in self._pieces(path, held, length - held):
                    writer.write(piece)
            try:
                writer.commit()
            except Refused as problem:
                if problem.reason != "bad-hash" or not held:
                    raise
                return False
        return True

    def _pieces(self, path: str, offset: int, limit: int) -> Iterator[bytes]:
        """Yield what the source gives, at its pace and in time; said to whoever watches."""
        for piece in paced(self._source.fetch(path, offset=offset, limit=limit), what=path):
            # A source just above the lowest speed must not keep the one install slot for ever; what
            # has come is kept, and the next try goes on at the byte.
            self._tx.beat()
            yield piece
            self._done += len(piece)
            if time.monotonic() - self._told >= _TELL_SECONDS:
                self._told = time.monotonic()
                self._tx.report.progress(State.FETCHING, min(self._done, self._total), self._total)
