"""A pack: the small blobs of one release, one after the other, as its manifest alone orders them.

No header, no index, no name, nothing stored: whoever has the verified manifest knows where each
blob begins. Bytes of a pack are believed blob by blob, after their hash, and never before.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from embrasure import limits
from embrasure.errors import Refused


def members(blobs: Mapping[str, int]) -> dict[str, int]:
    """Return digest -> length of the blobs in the pack: the small ones, each once, as they first
    appear in the manifest (`Manifest.blobs`).
    """
    return {digest: size for digest, size in blobs.items() if size <= limits.PACKED_BYTES}


@dataclass(frozen=True, slots=True)
class Run:
    """Blobs side by side in a pack. offset: of the first one; blobs: (digest, length), in order."""

    offset: int
    blobs: tuple[tuple[str, int], ...]

    @property
    def length(self) -> int:
        """Bytes of all of them."""
        return sum(size for _, size in self.blobs)


def runs(packed: Mapping[str, int], wanted: Container[str]) -> list[Run]:
    """Return what to ask of a pack for the `wanted` blobs: nothing that is here comes again.

    packed: of `members`. Only runs long enough to be worth a range, and the longest ones when there
    are too many; what is left comes blob by blob. In the pack's order.
    """
    found: list[Run] = []
    offset = start = 0
    run: list[tuple[str, int]] = []
    for digest, size in packed.items():
        if digest in wanted:
            start = start if run else offset
            run.append((digest, size))
        elif run:
            found.append(Run(start, tuple(run)))
            run = []
        offset += size
    if run:
        found.append(Run(start, tuple(run)))
    found = [run for run in found if len(run.blobs) >= limits.PACK_LEAST_BLOBS and run.length]
    longest = sorted(found, key=lambda run: len(run.blobs), reverse=True)[: limits.PACK_RANGES]
    return sorted(longest, key=lambda run: run.offset)


class Cutter:
    """Cuts a run's bytes, as they come, into its blobs. `rest`: the bytes of one not yet whole."""

    def __init__(self, blobs: Sequence[tuple[str, int]]) -> None:
        """blobs: (digest, length), as in `Run`; none is longer than `limits.PACKED_BYTES`."""
        self._left = iter(blobs)
        self._next = next(self._left, None)
        self.rest = bytearray()

    @property
    def current(self) -> tuple[str, int] | None:
        """The blob whose bytes come next, None when all have come."""
        return self._next

    def cut(self, piece: bytes | memoryview) -> Iterator[tuple[str, bytes | memoryview]]:
        """Yield each blob (digest, bytes) that `piece` makes whole, unverified; the bytes are good
        until the next one. Raises Refused (`limit`) for a byte behind the last blob.
        """
        view = memoryview(piece)
        at, end = 0, len(view)
        while (blob := self._next) is not None:
            digest, size = blob
            lacks = size - len(self.rest)
            if at + lacks > end:
                self.rest += view[at:]
                return
            data: bytes | memoryview = view[at : at + lacks]
            if self.rest:
                self.rest += data
                data, self.rest = bytes(self.rest), bytearray()
            at += lacks
            self._next = next(self._left, None)
            yield digest, data
        if at < end:
            raise Refused("pack", expected="its blobs", got="more bytes", reason="limit")
