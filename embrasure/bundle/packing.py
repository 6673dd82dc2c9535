"""Packs out of a source that has blobs: made while they are read, from any byte to any byte.

What a pack costs a server is what its blobs cost one by one: each is opened when its turn comes.
Whoever may be given a pack is decided before: here is no table, and nothing is stored.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import accumulate

from embrasure import limits
from embrasure.bundle.manifest import parse_manifest
from embrasure.bundle.pack import members
from embrasure.errors import Refused, Unavailable
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.fetcher import fetch_whole
from embrasure.trust.source import Source

_DIGEST_BYTES = 32


class Order:
    """Where each blob of one pack begins, in 40 bytes each."""

    __slots__ = ("_digests", "_ends")

    def __init__(self, blobs: dict[str, int]) -> None:
        """blobs: of `members`."""
        self._digests = bytes.fromhex("".join(blobs))
        self._ends = array("Q", accumulate(blobs.values()))

    def __len__(self) -> int:
        """Return how many blobs there are."""
        return len(self._ends)

    @property
    def size(self) -> int:
        """Bytes of the whole pack."""
        return self._ends[-1] if self._ends else 0

    def parts(self, start: int, end: int) -> Iterator[tuple[str, int, int, int]]:
        """Yield the blobs that the bytes from `start` to `end` lie in: digest, length, and from
        where to where.
        """
        number = bisect_right(self._ends, start)
        while start < end:
            begins = self._ends[number - 1] if number else 0
            length = self._ends[number] - begins
            stop = min(end - begins, length)
            if length:  # an empty blob has no bytes to give
                where = number * _DIGEST_BYTES
                digest = self._digests[where : where + _DIGEST_BYTES].hex()
                yield digest, length, start - begins, stop
                start = begins + stop
            number += 1


class PackedSource:
    """A source that also has the packs of its manifests. Any thread may use it.

    Of a pack `limit` is how many bytes are wanted: more lie behind them as a rule.
    """

    def __init__(self, source: Source) -> None:
        """source: of plain files: manifests and blobs."""
        self._source = source
        self._orders: OrderedDict[str, Order] = OrderedDict()
        self._mutex, self._parsing = threading.Lock(), threading.Lock()

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Yield the bytes of `path` from `offset` on.

        Raises what the source raises; of a pack Refused (`bad-offset`, `bad-hash`), and Unavailable
        when a blob of it is not whole here.
        """
        pack = layout.parse_pack(path)
        if pack is None:
            return self._source.fetch(path, offset=offset, limit=limit)
        return self._packed(pack, offset, limit)

    def known_size(self, pack: layout.Pack) -> int | None:
        """Return the bytes of a pack whose manifest is not to be read for it, else None."""
        order = self._known(pack)
        return None if order is None else order.size

    def size(self, pack: layout.Pack) -> int:
        """Return the bytes of a pack; raises NotFound, Refused."""
        return self._order(pack).size

    def _packed(self, pack: layout.Pack, offset: int, limit: int) -> Iterator[bytes]:
        order = self._order(pack)
        if not 0 <= offset <= order.size:
            raise Refused("pack", expected="an offset of it", got=offset, reason="bad-offset")
        yield from joined(self._pieces(order, offset, min(order.size, offset + limit)))

    def _pieces(self, order: Order, start: int, end: int) -> Iterator[bytes]:
        for digest, length, first, stop in order.parts(start, end):
            path, left = layout.blob_file(digest), stop - first
            for piece in self._source.fetch(path, offset=first, limit=length - first):
                if left:  # of the last one perhaps not all
                    yield piece[:left]
                    left -= min(left, len(piece))
            if left:
                raise Unavailable(path, expected=f"{length} bytes", got="fewer", reason="source")

    def _order(self, pack: layout.Pack) -> Order:
        # One manifest is parsed at a time: a stranger may ask for all of them at once.
        if (order := self._known(pack)) is not None:
            return order
        with self._parsing:
            if (order := self._known(pack)) is not None:
                return order
            raw = fetch_whole(self._source, pack.manifest, limit=limits.MANIFEST_BYTES)
            check_manifest(raw, pack)
            order = Order(members(parse_manifest(raw).blobs()))
            with self._mutex:
                self._orders[pack.digest] = order
                while sum(map(len, self._orders.values())) > limits.PACKS_KNOWN:
                    self._orders.popitem(last=False)
            return order

    def _known(self, pack: layout.Pack) -> Order | None:
        with self._mutex:
            if pack.digest in self._orders:
                self._orders.move_to_end(pack.digest)
            return self._orders.get(pack.digest)


def check_manifest(raw: bytes, pack: layout.Pack) -> None:
    """Return only when the manifest is the one of the pack's name: that one was asked for by who
    has verified it. Raises Refused (`bad-hash`).
    """
    if sha256_hex(raw) != pack.digest:
        raise Refused(pack.manifest, expected="the bytes of its name", got="others",
                      reason="bad-hash")  # fmt: skip


def joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces of `limits.BUFFER_BYTES`, the last one shorter."""
    held: list[bytes] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        if count >= limits.BUFFER_BYTES:
            whole = b"".join(held)
            yield whole[: limits.BUFFER_BYTES]
            held = [whole[limits.BUFFER_BYTES :]]
            count = len(held[0])
    if count:
        yield b"".join(held)
